"""Virtual environments of a test's own: bare, made offline in a moment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.env import clean_env


def make(path: Path, *, python: str = sys.executable) -> Path:
    """A virtual environment without pip and without any package; its interpreter."""
    subprocess.run(
        [python, "-m", "venv", "--without-pip", str(path)],
        env=clean_env(),
        check=True,
        capture_output=True,
        timeout=120,
    )
    return path / "bin" / "python"


def site_packages(python: Path) -> Path:
    """Where packages of the environment lie that `python` belongs to."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run(
        [str(python), "-c", asked], env=clean_env(), check=True, capture_output=True, text=True, timeout=60
    )
    return Path(done.stdout.strip())


def share_packages(python: Path) -> None:
    """Let it import what this interpreter can, its programs apart."""
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages(python) / "shared.pth").write_text("".join(f"{path}\n" for path in sorted(ours)))
