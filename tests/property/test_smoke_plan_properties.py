"""Whatever stands in a plan, it is read, or refused in one line; what was written is read back."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.smoke import expect, expectations, plan
from tests.support.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

KEYS = st.sampled_from(
    [
        "name",
        "values",
        "stages",
        "budgets",
        "include",
        "command",
        "budget",
        "stall",
        "needs",
        "expect",
        "for_each",
        "summary",
        "remedy",
        "environment",
        "exit",
        "step",
        "loss",
        "falls_by",
        "incident",
        "cause",
        "within",
        "measured",
        "at_least",
        "log_lacks",
        "memory",
        "learning_rate",
        "kind",
        "peak",
        "scraped",
        "files",
        "x",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["a", "b", "{x}", "{here}", "{python} -c 1", "none", "5 m", "2G", "scheduled", "('", "train=3"]
    )
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
STAGES = st.fixed_dictionaries(
    {"name": SCALARS, "command": DOCUMENTS}, optional={"expect": DOCUMENTS, "needs": SCALARS}
)
SHAPED = st.fixed_dictionaries(
    {"stages": st.lists(STAGES, max_size=3)}, optional={"values": DOCUMENTS, "budgets": DOCUMENTS}
)


def check(path: Path) -> None:
    """A plan, or one line that names the file."""
    try:
        found = plan.load(path)
    except UsageError as error:
        said = str(error)
        assert said.startswith(str(path.parent)), said
        assert said.isprintable(), said
    else:
        assert found.stages
        assert all(stage.command and stage.budget_seconds > 0 for stage in found.stages)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans") / "plan.yaml"


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=DOCUMENTS | SHAPED)
def test_any_document_is_a_plan_or_is_refused(document: object, path: Path) -> None:
    path.write_text(yaml.safe_dump(document), encoding="utf-8", errors="surrogatepass")
    check(path)


@settings(max_examples=examples(200), deadline=None)
@given(
    text=st.text(st.characters() | st.sampled_from(":-{}[]&*!|>'\"#\n \t"), max_size=60)
    | st.binary(max_size=60)
)
def test_any_text_is_a_plan_or_is_refused(text: str | bytes, path: Path) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    check(path)


names = st.text(string.ascii_lowercase, min_size=1, max_size=8)
words = st.text(st.characters(codec="utf-8", exclude_characters="{}\0"), min_size=1, max_size=10)
# Below the run directory.
patterns = words.filter(lambda word: not word.startswith("/") and ".." not in word.split("/"))


@st.composite
def plans(draw: st.DrawFn) -> list[dict[str, object]]:
    """Stages that need earlier ones."""
    found: list[dict[str, object]] = []
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        earlier = [each["name"] for each in found]
        found.append(
            {
                "name": name,
                "command": draw(st.lists(words, min_size=1, max_size=4)),
                "budget": draw(st.integers(1, 10**6)),
                "needs": draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else [],
                "expect": {
                    "step": draw(st.integers(1, 10**9)),
                    "files": draw(st.lists(patterns, min_size=1, max_size=2)),
                },
            }
        )
    return found


@settings(max_examples=examples(100), deadline=None)
@given(stages=plans())
def test_what_was_written_is_read_back(stages: list[dict[str, object]], path: Path) -> None:
    path.write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    read = plan.load(path).stages
    assert [
        {
            "name": stage.name,
            "command": list(stage.command),
            "budget": stage.budget_seconds,
            "needs": list(stage.needs),
            "expect": {
                "step": next(e.step for e in stage.expectations if isinstance(e, expect.StepReached)),
                "files": list(stage.globs),
            },
        }
        for stage in read
    ] == stages
    assert expectations.parse(None)[0] == expect.ExitStatus(allowed=(0,))
