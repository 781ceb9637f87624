"""filelock over a file that a dead process left."""

import os
import tempfile

TRUTH = {"state": "hung", "cause": "file-lock", "blame": ["load_cache"], "needs": ["filelock"]}


def load_cache(path):
    from filelock import SoftFileLock

    with SoftFileLock(path):
        pass


def main():
    path = os.path.join(tempfile.mkdtemp(), "cache.lock")
    with open(path, "w"):
        pass
    import filelock  # noqa: F401

    print("READY", flush=True)
    load_cache(path)


main()
