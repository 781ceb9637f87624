"""What a step is, and its loss, rates and norm, for every way to take one: recorded right, or not at all."""

from __future__ import annotations

import json
import math
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import auto
from tests.support.needs import require

if TYPE_CHECKING:
    from pathlib import Path

require("torch")

# As the program has them; named here, so that each is a test of its own.
_WAYS = (
    "plain",
    "clipped",
    "clipped_in_parts",
    "accumulated",
    "groups",
    "foreach",
    "fused",
    "two_of_one_loss",
    "adversarial",
    "closure",
    "lbfgs",
    "scaled",
    "scaled_and_fused",
    "scaled_by_hand",
    "inside_backward",
    "without_backward",
    "thrown_away",
    "failing",
    "wrapped",
    "not_finite",
    "compiled",
    "compiled_optimizer",
    "compiled_whole",
    "of_no_torch_optimizer",
)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Any], list[Any]]]:
    """By way: the rows that it ought to have, and those that it has."""
    folder: Path = tmp_path_factory.mktemp("semantics")
    said = auto.python(str(auto.TRAINERS / "semantics.py"), env=auto.environment(folder / "run"), cwd=folder)
    expected = [json.loads(line) for line in said.splitlines()]
    rows, stages, _ = auto.recorded(folder / "run")
    assert "compile" in stages
    assert [row.step for row in rows] == list(range(1, len(rows) + 1))
    counts = [len(each["rows"]) for each in expected]
    assert len(rows) == sum(counts), [(each["way"], len(each["rows"])) for each in expected]
    ends = list(accumulate(counts))
    return {
        each["way"]: (each["rows"], rows[end - count : end])
        for each, end, count in zip(expected, ends, counts, strict=True)
    }


def same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=1e-6)


@pytest.mark.parametrize("way", _WAYS)
def test_a_step_is_recorded_right_or_not_at_all(
    way: str, ways: dict[str, tuple[list[Any], list[Any]]]
) -> None:
    expected, rows = ways[way]
    for (loss, rates, norm), row in zip(expected, rows, strict=True):
        assert same(loss, row.loss), (way, loss, row.loss)
        assert list(row.learning_rates) == pytest.approx(rates), way
        assert same(norm, row.grad_norm), (way, norm, row.grad_norm)


def test_a_run_is_the_same_to_the_bit(ways: dict[str, tuple[list[Any], list[Any]]], tmp_path: Path) -> None:
    """Every loss and norm of every way, printed in full, without the harness."""
    alone = auto.python(str(auto.TRAINERS / "semantics.py"), env=auto.environment(None), cwd=tmp_path)
    said = [json.loads(line) for line in alone.splitlines()]
    assert json.dumps({each["way"]: each["rows"] for each in said}) == json.dumps(
        {way: expected for way, (expected, _) in ways.items()}
    )
