"""A compiled model trains: what inductor made runs, and nothing compiles any more."""

import tempfile

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress"],
    "blame": ["train"],
    "needs": ["torch", "g++"],
    "settle_seconds": 0.5,
}


def train(model, batches):
    import torch

    for number, batch in enumerate(batches):
        with torch.no_grad():
            model(batch).sum()
        if number == 3:
            print("READY", flush=True)


def main():
    import os

    import torch

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

    layers = torch.nn.Linear(1024, 1024), torch.nn.GELU(), torch.nn.Softmax(-1)
    train(torch.compile(torch.nn.Sequential(*layers)), (torch.randn(512, 1024) for _ in iter(int, 1)))


main()
