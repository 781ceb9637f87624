"""Whatever a configuration file holds: it is loaded, or refused in a line a mistake that names the file."""

from __future__ import annotations

import copy

import pytest

from tests.support import needs
from tests.support.env import REPOSITORY
from tests.support.examples import examples

needs.require("pydantic")
yaml = needs.require("yaml")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nsa.config import load
from nsa.errors import ConfigError

FILES = sorted((REPOSITORY / "configs").glob("*.yaml"))
GOOD = {path.name: yaml.safe_load(path.read_text()) for path in FILES}

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(10**6, 10**30),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["auto", "cuda", "byte", "1e-3", "nan", ".inf", "yes", "\x1b[31m", "[", "{}", "null"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def keys(values, prefix=()):
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from keys(value, (*prefix, key))


@st.composite
def changed(draw):
    """A configuration of ours with a few values replaced, removed, or added under a misspelt name."""
    values = copy.deepcopy(GOOD[draw(st.sampled_from(sorted(GOOD)))])
    for path in draw(st.lists(st.sampled_from(sorted(keys(values))), min_size=1, max_size=3)):
        section = values
        for key in path[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        what = draw(st.sampled_from(["replace", "remove", "misspell"]))
        if what == "replace":
            section[path[-1]] = draw(ODD)
        elif what == "remove":
            section.pop(path[-1], None)
        else:
            section[f"{path[-1]}s"] = draw(ODD)
    return values


def refusal(path):
    """What is said of a file that is not loaded."""
    try:
        load(path)
    except ConfigError as error:
        return error
    return None


def check(error, path):
    assert error.exit_status == 2
    for line in str(error).split("\n"):  # one a mistake
        assert str(path) in line
        assert len(line) < 1000
        assert line.isprintable(), "what a file holds is shown, not obeyed"


@settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=changed())
@example(values={"a\x1b[31m": 1, "b\nc": 2})
def test_a_changed_configuration_is_loaded_or_refused_in_clear_lines(tmp_path, values):
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    error = refusal(path)
    if error is not None:
        check(error, path)


@settings(
    max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=st.binary(max_size=60) | st.text("{}[]:-,&*!|>'\"%@` \n\t#aé\x00", max_size=40).map(str.encode))
def test_any_bytes_are_refused_in_clear_lines(tmp_path, raw):
    path = tmp_path / "any.yaml"
    path.write_bytes(raw)
    check(refusal(path), path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_loaded_says_itself_again(path, tmp_path):
    loaded = load(path)
    again = tmp_path / path.name
    again.write_text(yaml.safe_dump(loaded.model_dump(mode="json")))
    assert load(again) == loaded
