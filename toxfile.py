"""Lets tox find the Pythons that pyenv keeps: its shims refuse any version that is not selected."""

from __future__ import annotations

import os
from pathlib import Path

_PATH = os.environ.get("PATH", os.defpath).split(os.pathsep)
_FOUND = [
    str(python.parent)
    for entry in map(Path, _PATH)
    if entry.name == "shims"
    for python in sorted(entry.parent.glob("versions/3.1[0-9].*/bin/python"))
]
os.environ["PATH"] = os.pathsep.join([*_PATH, *_FOUND])
