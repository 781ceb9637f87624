"""Chromium without a window: what a page looks like, what its scripts make of it, what it complains of."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DEADLINE_SECONDS = 90
# What a page, or the browser on its behalf, says on the console; its own start-up noise is not of this kind.
_CONSOLE = re.compile(r":CONSOLE(?:\(\d+\)|:\d+)\] (?P<text>.*)")


@dataclass(frozen=True)
class Opened:
    """A page after its scripts ran."""

    html: str
    console: tuple[str, ...]


def program() -> str | None:
    """Where it is; None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def opened(page: Path, *, width: int = 1280, dark: bool = False) -> Opened:
    """The page as the browser has it in the end, and everything on its console."""
    done = _run(page, ["--dump-dom"], width=width, height=900, dark=dark)
    return Opened(
        html=done.stdout.decode("utf-8", "replace"),
        console=tuple(found["text"] for found in _CONSOLE.finditer(done.stderr.decode("utf-8", "replace"))),
    )


def screenshot(page: Path, picture: Path, *, width: int, height: int, dark: bool = False) -> Path:
    """What one sees of it."""
    _run(page, [f"--screenshot={picture}"], width=width, height=height, dark=dark)
    assert picture.exists(), "no picture was taken"
    return picture


def _run(
    page: Path, what: list[str], *, width: int, height: int, dark: bool
) -> subprocess.CompletedProcess[bytes]:
    found = program()
    assert found is not None, "chromium is not installed"
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [
                *(found, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"),
                *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000"),
                # 0 is dark and 1 is light, whatever the desktop says.
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                *(
                    f"--user-data-dir={profile}",
                    f"--window-size={width},{height}",
                    *what,
                    page.resolve().as_uri(),
                ),
            ],
            capture_output=True,
            timeout=_DEADLINE_SECONDS,
            check=True,
        )
