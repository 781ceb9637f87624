"""Starts for long: it imports one module after the other."""

import importlib
import sys

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress", "slow-io"], "needs": ["torch"]}


def main():
    print("READY", flush=True)
    while True:
        import torch  # noqa: F401

        wanted = ("torch.utils.data", "torch.optim", "json", "http")
        names = [each for each in sys.modules if each.startswith(wanted)]
        for name in names:
            del sys.modules[name]
        for name in names:
            importlib.import_module(name)


main()
