"""A pytest plugin: the checks as fixtures, and `--harness-examples N` for all of them.

    def test_our_schedule(check_lr_schedule):
        check_lr_schedule(ours, peak=3e-4, warmup=2000, total=50_000, floor=0.1)

Importing it costs nothing: hypothesis is loaded by the first check that draws.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option."""
    parser.getgroup("harness").addoption(
        "--harness-examples",
        type=int,
        default=None,
        metavar="N",
        help="how many examples each check of harness.properties draws (200)",
    )


def _with_examples(check: Callable[..., None], config: pytest.Config) -> Callable[..., None]:
    count = config.getoption("--harness-examples")
    return check if count is None else functools.partial(check, examples=count)


@pytest.fixture
def check_lr_schedule(pytestconfig: pytest.Config) -> Callable[..., None]:
    """harness.properties.check_lr_schedule."""
    from harness.properties.schedules import check_lr_schedule

    return _with_examples(check_lr_schedule, pytestconfig)


@pytest.fixture
def check_packing(pytestconfig: pytest.Config) -> Callable[..., None]:
    """harness.properties.check_packing."""
    from harness.properties.packing import check_packing

    return _with_examples(check_packing, pytestconfig)


@pytest.fixture
def check_truncation(pytestconfig: pytest.Config) -> Callable[..., None]:
    """harness.properties.check_truncation."""
    from harness.properties.truncation import check_truncation

    return _with_examples(check_truncation, pytestconfig)
