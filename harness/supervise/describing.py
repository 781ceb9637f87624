"""What takes a while to find out about a run, found out beside it: git, versions, the labels of its metrics.

Not here: how it is found out (`identity`).
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.supervise import identity, viewing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.supervise.opening import Opened


class Describing(threading.Thread):
    """Writes what it finds into run.json, once; keeps nobody waiting."""

    def __init__(
        self, opened: Opened, environment: Mapping[str, str], *, failed: Callable[[str, Exception], None]
    ) -> None:
        super().__init__(name="describing", daemon=True)
        self._opened, self._environment, self._failed = opened, environment, failed
        self.info: Mapping[str, str] = {}  # the labels of trainer_run_info, once they are known

    def run(self) -> None:
        """The thread's work."""
        file = self._opened.file
        directory = Path(file.record.cwd)
        self._try("configuration", lambda: self._keep_configuration(directory))  # first: it takes no time
        git = self._try("git", lambda: identity.git_state(directory))
        versions = self._try(
            "versions", lambda: identity.versions_of(self._opened.command, self._environment, directory)
        )
        with contextlib.suppress(OSError):  # said already by whoever writes run.json next
            file.update(git=git, versions=versions)
        self.info = viewing.info_of(file.record, directory)

    def _keep_configuration(self, directory: Path) -> dict[str, Any]:
        """As it was when the last attempt began: who looks at the run later may find another file there."""
        run = self._opened.run
        found = identity.configurations_of(self._opened.command, directory)
        if found and run.node is None:
            run.configuration.mkdir(exist_ok=True)
            for name, text in found.items():
                (run.configuration / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        return {}

    def _try(self, part: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return find()
        except Exception as error:  # noqa: BLE001 -- a gap in run.json is no reason for anything
            self._failed(part, error)
            return {"reason": f"{type(error).__name__}: {error}"}
