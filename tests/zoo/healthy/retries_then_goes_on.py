"""Every request fails once, and is repeated after a short pause: it goes on."""

import time

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"], "settle_seconds": 0.3}


def request(attempt):
    if attempt == 0:
        raise OSError("503")
    time.sleep(0.1)


def fetch():
    for attempt in range(5):
        try:
            request(attempt)
        except OSError:
            time.sleep(0.15)
        else:
            return


def main():
    for shard in range(100_000):
        fetch()


print("READY", flush=True)
main()
