"""A trainer that is installed as a package, below a script of one line: two of its threads, two locks."""

import sys
import textwrap
from pathlib import Path

TRUTH = {"state": "hung", "cause": "lock-deadlock", "blame": ["save", "fit", "main"]}

LOOP = """
import threading, time

weights, log = threading.Lock(), threading.Lock()

def save(both):
    with weights:
        both.wait()
        with log:
            pass

def fit():
    both = threading.Barrier(2)
    threading.Thread(target=save, args=(both,), name="saver").start()
    with log:
        both.wait()
        print("READY", flush=True)
        with weights:
            pass
"""


def main():
    package = Path("env/lib/python3/site-packages/acme_trainer")
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text(textwrap.dedent(LOOP))
    sys.path.insert(0, str(package.parent.resolve()))
    import acme_trainer

    acme_trainer.fit()


main()
