"""What is read out of dumps: py-spy's JSON, faulthandler's text, and what of locals may be kept."""

from __future__ import annotations

import json

import pytest

from harness.collect import records, stacks
from harness.collect.ladder import obstacle
from harness.evidence import Missing, Reading, ThreadSample
from tests.support.cases import NONE


def dumped(**changes) -> bytes:
    thread = {
        "pid": 1,
        "thread_id": 140,
        "thread_name": "Main\x1b[2J",
        "os_thread_id": 7,
        "active": True,
        "owns_gil": True,
        "frames": [
            {
                "name": "fetch",
                "filename": "/x/loader.py",
                "module": None,
                "short_filename": "loader.py",
                "line": 31,
                "locals": [
                    {"name": "i", "addr": 1, "arg": False, "repr": "398"},
                    {"name": "password", "addr": 2, "arg": True, "repr": '"hunter2"'},
                    {"name": "batch", "addr": 3, "arg": False, "repr": '{"text": "private"}'},
                    {"name": "shape", "addr": 4, "arg": False, "repr": "(4, 1024)"},
                ],
                "is_entry": True,
            },
            {
                "name": "c10d::Work::wait",
                "filename": "/t/libtorch_cpu.so",
                "module": "/t/libtorch_cpu.so",
                "line": 0,
                "locals": None,
            },
        ],
    }
    return json.dumps([thread | changes]).encode()


def test_a_dump_becomes_threads_and_frames():
    (thread,) = stacks.parse(dumped())
    assert (thread.tid, thread.active, thread.owns_gil) == (
        Reading(value=7),
        Reading(value=True),
        Reading(value=True),
    )
    python, native = thread.frames
    assert (python.function, python.file, python.line, python.native) == ("fetch", "/x/loader.py", 31, False)
    assert (native.native, native.module) == (True, "/t/libtorch_cpu.so")


def test_of_locals_numbers_and_shapes_are_kept_and_text_is_dropped():
    (thread,) = stacks.parse(dumped())
    assert [(each.name, each.kind, each.value) for each in thread.frames[0].locals] == [
        ("i", "number", "398"),
        ("password", "text", ""),
        ("batch", "container", ""),
        ("shape", "numbers", "(4, 1024)"),
    ]


def test_text_is_kept_where_it_was_asked_for():
    (thread,) = stacks.parse(dumped(), text=True)
    assert [each.value for each in thread.frames[0].locals][1:3] == ['"hunter2"', '{"text": "private"}']


def test_a_thread_whose_id_is_unknown_says_so():
    (thread,) = stacks.parse(dumped(os_thread_id=None))
    assert isinstance(thread.tid, Missing)


@pytest.mark.parametrize("tid", [1, None])
def test_the_main_thread_of_a_program_that_never_imported_threading(tid):
    (thread,) = stacks.parse(dumped(thread_name=None, os_thread_id=tid))
    assert (thread.name, thread.tid) == ("MainThread", Reading(value=1))


@pytest.mark.parametrize("data", [b"", b"{", b"[{}]", b"null", b'[{"frames": 1}]', b"\xff"])
def test_what_is_no_dump_is_a_value_error(data):
    with pytest.raises(ValueError):
        stacks.parse(data)


@pytest.mark.parametrize(
    ("shown", "kind", "kept"),
    [
        ("398", "number", "398"),
        ("-0.5", "number", "-0.5"),
        ("1e-07", "number", "1e-07"),
        ("nan", "number", "nan"),
        ("NaN", "number", "NaN"),
        ("+bigint", "number", "+bigint"),
        ("True", "bool", "True"),
        ("None", "none", "None"),
        ("<Tensor at 0x7f00>", "object", "Tensor"),
        ("<torch.nn.Linear at 0x7f00>", "object", "torch.nn.Linear"),
        ("[1, 2.5, ...]", "numbers", "[1, 2.5, ...]"),
        ("{1: [2, None]}", "numbers", "{1: [2, None]}"),
        ("('a', 1)", "container", ""),
        ("[<Tensor at 0x7f00>, ...]", "container", ""),
        ('"text"', "text", ""),
        ("hunter2", "text", ""),
        ("", "text", ""),
        ("<secret here>", "text", ""),
    ],
)
def test_what_of_a_local_may_be_kept(shown, kind, kept):
    assert stacks.classify(shown) == (kind, kept)


@pytest.mark.parametrize(
    ("errors", "reason", "words"),
    [
        ("Permission Denied: Try running again with elevated permissions", "denied", "ptrace"),
        (
            "Error: Failed to find python version from target process\n\nStack backtrace:\n 0: x",
            "unavailable",
            "not a Python",
        ),
        (
            "Error: Failed to get stack traces\n\nCaused by:\n    0: Failed to suspend process\n",
            "unavailable",
            "paused",
        ),
        ("Error: Failed\n\nCaused by:\n    0: No such process (os error 3)\n", "unavailable", "has ended"),
        (
            "Error: Something new\n\nCaused by:\n    0: deep reason\n\nStack backtrace:\n   0: nix::x",
            "unavailable",
            "Something new; deep reason",
        ),
        ("", "unavailable", "no output"),
    ],
)
def test_py_spys_complaints_in_our_words(errors, reason, words):
    found = stacks.explain(errors)
    assert found.reason == reason
    assert words in found.detail
    assert "nix::x" not in found.detail


def thread_in(state: str) -> ThreadSample:
    return ThreadSample(tid=5, name="x", state=state, user_ticks=0, system_ticks=0, syscall=NONE, wchan=NONE)


@pytest.mark.parametrize("state", ["D", "T", "t", "Z", "X"])
def test_a_process_is_not_paused_while_a_thread_could_not_answer(state):
    assert f"state {state}" in obstacle([thread_in("S"), thread_in(state)])


def test_a_process_whose_threads_run_or_sleep_may_be_paused():
    assert obstacle([thread_in("R"), thread_in("S")]) == ""
    assert obstacle([]) != ""


FAULTHANDLER = """\
Thread 0x00007f01 [prefetch-0] (most recent call first):
  File "/x/odd "name", line 3.py", line 31 in fetch
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f02 (most recent call first):
  File "/x/train.py", line 88 in <module>
  ...
"""


def test_faulthandlers_text_becomes_threads_and_frames():
    first, second = records.parse_traceback(FAULTHANDLER)
    assert first.name == "prefetch-0"
    assert [(each.file, each.line, each.function) for each in first.frames] == [
        ('/x/odd "name", line 3.py', 31, "fetch"),
        ("/usr/lib/python3.11/threading.py", 982, "run"),
    ]
    assert [each.function for each in second.frames] == ["<module>"]
    assert isinstance(second.tid, Missing)
    assert isinstance(second.owns_gil, Missing)
