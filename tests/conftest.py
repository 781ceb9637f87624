"""Shared by all tests: the `needs` marker."""

from __future__ import annotations

import pytest

from tests.support import needs


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        reason = needs.check(*marker.args)
        if reason:
            pytest.skip(reason)
