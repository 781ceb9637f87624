"""A DataLoader worker is lost in a regular expression."""

import re

TRUTH = {
    "state": "hung",
    "cause": "native-spin",
    "blame": ["__getitem__"],
    "needs": ["torch"],
    "settle_seconds": 1.0,
}


class Texts:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 3:
            re.match(r"(a+)+$", "a" * 60 + "!")
        return index


def main():
    from torch.utils.data import DataLoader

    for number, _ in enumerate(DataLoader(Texts(), num_workers=2)):
        if number == 0:
            print("READY", flush=True)


main()
