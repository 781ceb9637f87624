"""Every program of the zoo, diagnosed by the command as a user would: state, cause, blamed line, facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import zoo

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = [
    pytest.param(
        path, id=zoo.name(path), marks=pytest.mark.needs("py-spy", *zoo.truth(path).get("needs", ()))
    )
    for path in zoo.programs()
]


@pytest.mark.parametrize("path", PROGRAMS)
def test_the_zoo_gets_its_truth(path: Path):
    found = zoo.outcome(path)
    assert not found.wrong, (found.wrong, found.document["findings"])
    assert found.status == (0 if found.verdict["state"] in ("healthy", "slow") else 1)
