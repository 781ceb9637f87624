"""The first step of a compiled model: inductor writes C++ and g++ compiles it."""

import os
import tempfile

TRUTH = {
    "state": "slow",
    "cause": "compiling",
    "blame": ["main"],
    "facts": ["compil"],
    "needs": ["torch", "g++"],
}


def main():
    # A cache of its own: an earlier run's would make this short.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
    import torch

    layers = []
    for width in range(32, 64):
        layers += [torch.nn.Linear(width, width + 1), torch.nn.GELU(), torch.nn.LayerNorm(width + 1)]
    model = torch.compile(torch.nn.Sequential(*layers))
    print("READY", flush=True)
    model(torch.randn(4, 32)).sum().backward()


main()
