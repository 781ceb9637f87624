"""Programs that are run to their end: what they wrote, and how they ended.

Not here: runs of the harness that go on (`run`).
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support.env import clean_env

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def completed(
    command: Sequence[str | Path], *, env: dict[str, str] | None = None, timeout: float = 60, **popen: Any
) -> subprocess.CompletedProcess[str]:
    """A program run to its end, whatever its status; in a clean environment unless `env` is another."""
    return subprocess.run(
        command,
        env=clean_env() if env is None else env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **popen,
    )


def completed_on_a_small_disk(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A Python program in a mount namespace of its own, where /mnt is a disk of 64 kB."""
    script = folder / "on_a_small_disk.py"
    script.write_text(code)
    mount_and_run = 'mount -t tmpfs -o size=64k none /mnt && exec "$0" "$@"'
    return completed(["unshare", "--mount", "--", "sh", "-c", mount_and_run, sys.executable, script])
