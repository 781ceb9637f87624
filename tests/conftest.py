"""Shared by all tests: the `needs` marker, and `--beyond-base` for what the base environments did not run."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import needs
from tests.support.examples import FACTOR, load_profile

if TYPE_CHECKING:
    from collections.abc import Iterator

load_profile()

# A shell without job control starts what stands before `&` deaf to Ctrl-C, and every program inherits that:
# tests start from what a terminal gives.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes in one thread, so that tests beside each other do not fight for the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--beyond-base", action="store_true", help="only tests that need more than the harness's own packages"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """CI draws with a seed that it prints, so that a failure there can be had again."""
    if os.environ.get("CI") and config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    seed = config.getoption("hypothesis_seed", None)
    if seed:
        terminalreporter.write_line(f"hypothesis: NSA_EXAMPLES={FACTOR:g} --hypothesis-seed={seed}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--beyond-base"):
        kept = [item for item in items if not needs.is_base(item)]
        config.hook.pytest_deselected(items=[item for item in items if needs.is_base(item)])
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        reason = needs.check(*marker.args)
        if reason:
            pytest.skip(reason)
