"""Writes the variants whose name holds one of the words."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support import zoo
from tests.support.variants import variants_of, write


def main() -> None:
    folder, *words = sys.argv[1:]
    for path in zoo.programs():
        for variant, program in variants_of(path):
            if not words or any(word in f"{variant}/{program.name}" for word in words):
                print(write(program, variant, Path(folder)))


if __name__ == "__main__":
    main()
