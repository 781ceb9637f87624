"""A DataLoader worker was stopped (SIGSTOP); the main process waits for its batch."""

import os
import signal

TRUTH = {
    "state": "stopped",
    "cause": "stopped",
    "blame": ["__getitem__"],
    "facts": ["kill -CONT"],
    "needs": ["torch"],
    "settle_seconds": 0.5,
}


class Images:
    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGSTOP)
        return index


def main():
    from torch.utils.data import DataLoader

    for number, _ in enumerate(DataLoader(Images(), num_workers=2)):
        if number == 0:
            print("READY", flush=True)


main()
