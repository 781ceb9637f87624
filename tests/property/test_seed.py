"""In CI the seed is printed, and with it the same examples are drawn again."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed

if TYPE_CHECKING:
    from pathlib import Path

DRAWS = """
from hypothesis import given, strategies as st

@given(st.integers())
def test_draws(number):
    with open("drawn", "a") as file:
        file.write(f"{number} ")

@given(st.integers())
def test_fails(number):
    assert number < 1000
"""


def run(folder: Path, *options: str, **env: str) -> tuple[str, str]:
    """What pytest said, and what was drawn."""
    drawn = folder / "drawn"
    drawn.unlink(missing_ok=True)
    done = completed(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("-p", "no:randomly", *options, "test_draws.py"),
        ],
        cwd=folder,
        env=clean_env(PYTHONPATH=str(REPOSITORY), **env),
        timeout=120,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    return done.stdout, drawn.read_text()


def test_what_ci_drew_can_be_drawn_again_from_the_seed_that_it_printed(tmp_path: Path) -> None:
    (tmp_path / "test_draws.py").write_text(DRAWS)
    said, drawn = run(tmp_path, CI="true", NSA_EXAMPLES="0.2")
    assert len(drawn.split()) == 20
    assert "number=1000" in said, "the smallest example that fails is in the output"
    found = re.search(r"hypothesis: NSA_EXAMPLES=0.2 (--hypothesis-seed=\d+)", said)
    assert found, said
    assert run(tmp_path, found[1], NSA_EXAMPLES="0.2")[1] == drawn
    assert run(tmp_path, CI="true", NSA_EXAMPLES="0.2")[1] != drawn
