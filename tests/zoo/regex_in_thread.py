"""The same regular expression in a worker thread, while the main thread waits for it."""

import re
import threading


def work(text):
    re.match(r"(a+)+$", text)


def main():
    thread = threading.Thread(target=work, args=("a" * 64 + "b",), name="worker-0", daemon=True)
    print("READY", flush=True)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
