"""torch.save of a large model, again and again: bytes move, though no step ends for long."""

import os
import tempfile

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress", "slow-io"],
    "needs": ["torch"],
    "settle_seconds": 0.3,
}


def save(state, path):
    import torch

    torch.save(state, path)


def main():
    import torch

    state = {f"layer.{number}": torch.zeros(1 << 20) for number in range(40)}
    with tempfile.TemporaryDirectory() as folder:
        print("READY", flush=True)
        while True:
            save(state, os.path.join(folder, "model.pt"))


main()
