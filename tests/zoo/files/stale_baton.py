"""A C++ extension whose build was killed: torch's FileBaton waits for the lock file that it left."""

import os
import tempfile

TRUTH = {
    "state": "hung",
    "cause": "file-lock",
    "blame": ["build"],
    "facts": ["lock"],
    "needs": ["torch"],
}


def build(folder):
    from torch.utils import cpp_extension

    source = os.path.join(folder, "kernel.cpp")
    with open(source, "w") as file:
        file.write("#include <torch/extension.h>\n")
    print("READY", flush=True)
    return cpp_extension.load("kernel", [source], build_directory=folder)


def main():
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "lock"), "w"):
        pass
    import torch.utils.cpp_extension  # noqa: F401

    build(folder)


main()
