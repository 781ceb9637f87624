"""What several integration tests share: a `harness run` that is never left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import run as runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    """Starts a command under `harness run` in `tmp_path/run`, or in `directory`."""
    started = []

    def begin(*command: str, **kwargs: object) -> runs.Run:
        directory = kwargs.pop("directory", tmp_path / "run")
        started.append(runs.start(directory, *command, **kwargs))
        return started[-1]

    yield begin
    for each in started:
        each.clean_up()
