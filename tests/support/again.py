"""pytest, and where CI is: what failed beside other tests once more, alone, with a word about it.

    python -m tests.support.again PYTEST_ARGUMENT...

CI's machine has two cores and neighbours. What passes alone is listed at the end, so that it is looked at;
what fails again has failed. A developer's run is pytest's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MOST = 12  # more than that is no bad luck
FAILED = 1
SECONDS = 3600


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        pytest = [sys.executable, "-m", "pytest", "-o", f"cache_dir={folder}"]
        status = subprocess.run([*pytest, *arguments], timeout=SECONDS, check=False).returncode
        failed = _failed(Path(folder))
        if status != FAILED or not os.environ.get("CI") or not 0 < len(failed) <= MOST:
            return status
        print(f"::: {len(failed)} failed; once more, alone", flush=True)
        alone = ["--last-failed", "-n", "0", "-p", "no:randomly"]
        status = subprocess.run([*pytest, *arguments, *alone], timeout=SECONDS, check=False).returncode
        again = _failed(Path(folder))
        for name in failed:
            print(f"::: {'failed again' if name in again else 'failed beside others, passed alone'}: {name}")
        sys.stdout.flush()
        return status


def _failed(cache: Path) -> list[str]:
    try:
        return list(json.loads((cache / "v/cache/lastfailed").read_text()))
    except (OSError, ValueError):
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
