"""Shared by all tests: the `needs` marker, and `--beyond-base` for what the base environments did not run."""

from __future__ import annotations

import signal

import pytest

from tests.support import needs

# A shell without job control starts what stands before `&` deaf to Ctrl-C, and every program inherits that:
# tests start from what a terminal gives.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--beyond-base", action="store_true", help="only tests that need more than the harness's own packages"
    )


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
