"""A DataLoader whose items take their time; the main thread waits for most of it."""

import time

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress"],
    "needs": ["torch"],
    "settle_seconds": 1.0,
}


class Images:
    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        time.sleep(0.3)
        return index


def main():
    from torch.utils.data import DataLoader

    print("READY", flush=True)
    for _ in DataLoader(Images(), num_workers=1):
        pass


main()
