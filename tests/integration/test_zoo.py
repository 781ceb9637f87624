"""Every program of the zoo, diagnosed by the command as a user would: state, cause, blamed line, facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import zoo

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = zoo.programs()


@pytest.mark.parametrize("path", PROGRAMS, ids=map(zoo.name, PROGRAMS))
def test_the_zoo_gets_its_truth(path: Path):
    reason = zoo.missing(path)
    if reason:
        pytest.skip(reason)
    found = zoo.outcome(path)
    assert not found.wrong, (found.wrong, found.document["findings"])
    assert found.status == (0 if found.verdict["state"] in ("healthy", "slow") else 1)
