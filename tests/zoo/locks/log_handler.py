"""One thread logs while it holds a lock that the log's handler takes; another logs at the same time."""

import logging
import threading
import time

TRUTH = {
    "state": "hung",
    "cause": "lock-deadlock",
    "blame": ["emit", "log_metrics"],
    "settle_seconds": 0.6,
}
lock = threading.Lock()
log = logging.getLogger("train")


class Dashboard(logging.Handler):
    def emit(self, record):
        with lock:
            self.latest = record


def log_metrics(step):
    with lock:
        time.sleep(0.1)
        log.info("step %d", step)


def beat():
    while True:
        log.info("alive")
        time.sleep(0.01)


def main():
    log.setLevel(logging.INFO)
    log.addHandler(Dashboard())
    threading.Thread(target=beat, name="beat", daemon=True).start()
    print("READY", flush=True)
    for step in range(1_000):
        log_metrics(step)


main()
