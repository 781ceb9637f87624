"""Any value of the evidence's types survives the way to JSON and back, whatever it holds."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import operator
import struct
import types
import typing

from hypothesis import given, settings
from hypothesis import strategies as st

from harness import codec
from harness.errors import RecordError
from harness.evidence import Case, Local, Log, Missing, Reading
from harness.render import case_text
from tests.support.cases import PID, case, frame, process, process_sample, sample, stack
from tests.support.examples import examples

# Every code point: control characters, NUL, and surrogates, alone and in pairs.
TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["", "\0", "\ud800\udc00", "\udcff", "\x1b[2J", "$x"]
)
FLOATS = st.floats(allow_nan=False)
FREE = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.just(math.nan) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def values(kind: typing.Any) -> st.SearchStrategy[typing.Any]:
    """Any value of an annotation that the Case uses."""
    simple = {
        str: TEXT,
        int: st.integers(-(2**63), 2**64 - 1),
        bool: st.booleans(),
        float: FLOATS,
        typing.Any: FREE,
    }
    if kind in simple:
        return simple[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(TEXT, values(arguments[1]), max_size=3)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is Reading:
        return st.builds(Reading, value=values(arguments[0]), at_seconds=FLOATS)
    hints = typing.get_type_hints(kind)
    return st.builds(
        kind,
        **{
            field.name: st.deferred(lambda hint=hints[field.name]: values(hint))
            for field in dataclasses.fields(kind)
        },
    )


@settings(max_examples=examples(60), deadline=None)
@given(values(Case))
def test_every_case_equals_what_was_saved_of_it(anything):
    assert codec.loads(Case, codec.dumps(anything)) == anything


def paths(node, here=()):
    """The place of every value in a JSON document."""
    yield here
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield from paths(inner, (*here, key))


def full_case() -> Case:
    """Two samples with stacks, numbers and heartbeats: every renderer has something to work on."""
    local = Local(name="t", argument=False, address=1, kind="number", value="398")
    looks = [
        sample(
            process_sample(at=at, ticks=int(at * 100), stacks=(stack(frame(locals=(local,)), gil=True),)),
            at=at,
            records=Reading(value=({"rank": 0, "pid": PID, "last_progress_monotonic_seconds": 1.0},)),
            log_bytes=Reading(value=5),
        )
        for at in (0.0, 1.0)
    ]
    log = Reading(value=Log(path="/r/log", size_bytes=6, modified_wall_seconds=1.0, tail="hello\n"))
    age, command = Reading(value=5.0), Reading(value=("python", "train.py"))
    return case(*looks, processes=(process(age_seconds=age, command=command),), log=log)


WHOLE = json.loads(codec.dumps(full_case()))
PLACES = list(paths(WHOLE))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | FLOATS
    | st.sampled_from([0, -1, 1e300, "NaN", "Infinity", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT.filter(str.isascii), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=examples(300), deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_a_file_with_anything_anywhere_is_a_case_or_one_clear_error(place, anything):
    document = copy.deepcopy(WHOLE)
    if place:
        parent = functools.reduce(operator.getitem, place[:-1], document)
        parent[place[-1]] = anything
    else:
        document = anything
    try:
        found = codec.loads(Case, json.dumps(document).encode())
    except RecordError:
        return
    # What was let in can be written again, and shown.
    assert codec.dumps(codec.loads(Case, codec.dumps(found))) == codec.dumps(found)
    assert case_text.case_lines(found)


@settings(deadline=None)
@given(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324]))
def test_a_number_comes_back_as_the_very_same(number):
    # NaN equals nothing, itself included: in a typed field it makes Cases unequal, so its bits are compared.
    found = codec.loads(Reading[float], codec.dumps(Reading(value=number)))
    assert struct.pack("d", found.value) == struct.pack("d", number)


@settings(max_examples=examples(200), deadline=None)
@given(FREE)
def test_free_json_comes_back_equal(value):
    record = Reading(value={"record": value})
    assert codec.loads(Reading[dict[str, typing.Any]], codec.dumps(record)) == record


@settings(max_examples=examples(200), deadline=None)
@given(TEXT)
def test_no_text_reaches_a_terminal_unescaped(text):
    written = codec.dumps(Missing(reason="denied", detail=text)).decode("utf-8", "surrogatepass")
    assert not any(ord(each) < 0x20 and each != "\n" for each in written)
    assert not any(0x7F <= ord(each) <= 0x9F for each in written)
