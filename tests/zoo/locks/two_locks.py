"""Two threads take two locks in opposite order."""

import threading

TRUTH = {"state": "hung", "cause": "lock-deadlock", "blame": ["save", "log"], "facts": ["writer", "saver"]}


class Trainer:
    def __init__(self):
        self.state_lock = threading.Lock()
        self.file_lock = threading.Lock()
        self.both = threading.Barrier(2)

    def save(self):
        with self.state_lock:
            self.both.wait()
            with self.file_lock:
                pass

    def log(self):
        with self.file_lock:
            self.both.wait()
            with self.state_lock:
                pass


def main():
    trainer = Trainer()
    threads = [
        threading.Thread(target=trainer.save, name="saver", daemon=True),
        threading.Thread(target=trainer.log, name="writer", daemon=True),
    ]
    for thread in threads:
        thread.start()
    print("READY", flush=True)
    for thread in threads:
        thread.join()


main()
