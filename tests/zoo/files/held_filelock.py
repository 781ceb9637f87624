"""filelock over a file that another live process holds."""

import os
import signal
import tempfile

TRUTH = {
    "state": "hung",
    "cause": "file-lock",
    "blame": ["load_cache"],
    "facts": ["holds it"],
    "keeps": ["artifacts"],
    "needs": ["filelock"],
}


def load_cache(path):
    from filelock import FileLock

    with FileLock(path):
        pass


def main():
    from filelock import FileLock

    path = os.path.join(tempfile.mkdtemp(), "tokenizer.json.lock")
    ready, done = os.pipe()
    if os.fork() == 0:
        with FileLock(path):
            os.write(done, b".")
            while True:
                signal.pause()
    os.read(ready, 1)
    print("READY", flush=True)
    load_cache(path)


main()
