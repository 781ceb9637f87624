"""A clean environment for programs under test: what a user's shell would have, and nothing of CI's.

CI machines export PYTHONUNBUFFERED=1, which hides the empty-log problem.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME", "PYENV_VERSION", "PYENV_ROOT")


def clean_env(home: Path | None = None, **extra: str) -> dict[str, str]:
    """Return a minimal environment; `home` replaces HOME, `extra` is added as it is."""
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env["HOME"] = str(home) if home is not None else os.environ.get("HOME", "/nonexistent")
    env["TERM"] = "dumb"
    # The interpreter's own folder first, so that `python`, `harness` and `nsa` are those under test.
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYTHONPATH"] = str(REPOSITORY)
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    env["OMP_NUM_THREADS"] = "1"
    env.update(extra)
    return env
