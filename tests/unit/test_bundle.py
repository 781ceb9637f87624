"""A Case folder: equal when loaded, never half, and nothing hostile gets through."""

from __future__ import annotations

import json
import math
import os
import stat
import sys

import pytest

from harness import bundle, codec
from harness.errors import RecordError
from harness.evidence import Log, Missing, Reading, Running, Syscall
from tests.support.cases import NONE, case, frame, process_sample, sample, stack
from tests.support.programs import completed


def small_case():
    dumped = process_sample(at=0.1, stacks=(stack(frame()),))
    log = Reading(value=Log(path="/r/log", size_bytes=6, modified_wall_seconds=1.0, tail="hello\x1b[2J\n"))
    return case(sample(dumped, at=0.1), log=log)


def test_a_case_loads_back_equal(tmp_path):
    saved = bundle.save(small_case(), tmp_path / "001")
    assert saved.left_out == ()
    assert bundle.load(tmp_path / "001") == small_case()


def test_folder_and_files_are_for_their_owner_alone(tmp_path):
    bundle.save(small_case(), tmp_path / "001")
    assert stat.S_IMODE((tmp_path / "001").stat().st_mode) == 0o700
    assert {
        stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "001").rglob("*") if each.is_file()
    } == {0o600}


def test_copies_for_people_stand_beside_it(tmp_path):
    bundle.save(small_case(), tmp_path / "001")
    names = {
        str(each.relative_to(tmp_path / "001")) for each in (tmp_path / "001").rglob("*") if each.is_file()
    }
    assert names == {"case.json", "summary.txt", "log_tail.txt", "stacks/4711.txt", "stacks/4711.json"}
    dumped = json.loads((tmp_path / "001" / "stacks" / "4711.json").read_text())
    assert dumped[0]["frames"][0] == {
        "name": "fetch",
        "filename": "/home/u/loader.py",
        "module": None,
        "line": 31,
        "locals": [],
        "is_entry": False,
    }


def test_an_existing_empty_folder_is_used_and_closed_to_others(tmp_path):
    (tmp_path / "001").mkdir(mode=0o755)
    bundle.save(small_case(), tmp_path / "001")
    assert stat.S_IMODE((tmp_path / "001").stat().st_mode) == 0o700


def test_a_second_case_in_one_folder_is_refused(tmp_path):
    bundle.save(small_case(), tmp_path / "001")
    with pytest.raises(bundle.BundleError, match="already holds a Case"):
        bundle.save(small_case(), tmp_path / "001")


def test_a_link_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "001").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(bundle.BundleError, match="cannot write"):
        bundle.save(small_case(), tmp_path / "001")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.needs("tmpfs")
@pytest.mark.parametrize(("kilobytes", "outcome"), [(4, "error"), (16, "left out")])
def test_a_full_disk_leaves_a_whole_case_or_none(tmp_path, kilobytes, outcome):
    # A private mount namespace with a small file system of its own: really full, and nobody else is hurt.
    script = """
import pathlib, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[1]}k", "none", sys.argv[2]], check=True)
sys.path.insert(0, sys.argv[3])
from harness import bundle
from tests.unit.test_bundle import long_case
folder = pathlib.Path(sys.argv[2]) / "001"
try:
    saved = bundle.save(long_case(), folder)
    assert bundle.load(folder) == long_case()
    print("left out" if saved.left_out else "whole")
except bundle.BundleError as error:
    assert "No space left on device" in str(error), error
    assert not list(folder.iterdir()), list(folder.iterdir())
    print("error")
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = completed(
        ["unshare", "--mount", "--", sys.executable, "-c", script, str(kilobytes), str(tmp_path), root]
    )
    assert (done.stdout.strip(), done.returncode) == (outcome, 0), done.stderr


def long_case():
    log = Reading(value=Log(path="/r/log", size_bytes=6000, modified_wall_seconds=1.0, tail="x" * 6000))
    return case(sample(process_sample(at=0.1), at=0.1), log=log)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\x00\xff rubbish", "not JSON"),
        (b"[]", "not JSON that the harness wrote"),
        (b'{"schema": "harness.case/99"}', "expected 'harness.case/1'"),
        (b'{"schema": "harness.case/1"}', "with a field"),
        (b"[" * 200_000, "not JSON"),
        (b'{"schema": "harness.case/1", "taken_at_seconds": "soon"}', "expected a number"),
        (
            b'{"schema": "harness.case/1", "taken_at_seconds": 1' + b"0" * 400 + b"}",
            "not JSON that the harness wrote",
        ),
    ],
)
def test_a_file_that_is_no_case_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "case.json").write_bytes(content)
    with pytest.raises(RecordError, match=message) as caught:
        bundle.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_case_json_is_named_so(tmp_path):
    with pytest.raises(RecordError, match="not a Case, or one whose writing was cut short"):
        bundle.load(tmp_path)


def test_links_fifos_folders_and_gigabytes_are_refused(tmp_path):
    for name in ("link", "fifo", "folder", "huge"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "case.json").mkdir()
    (tmp_path / "link" / "case.json").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo" / "case.json")
    with (tmp_path / "huge" / "case.json").open("wb") as file:
        file.truncate(5 * 2**30)
    for name, message in (
        ("link", "symbolic link"),
        ("fifo", "not a regular file"),
        ("folder", "not a regular file"),
        ("huge", "bytes, more than"),
    ):
        with pytest.raises(RecordError, match=message):
            bundle.load(tmp_path / name)


def test_unknown_keys_are_passed_over_and_missing_ones_take_their_default():
    raw = json.loads(codec.dumps(Missing(reason="denied", detail="no")))
    raw["new in a later version"] = 1
    del raw["detail"]
    assert codec.loads(Missing, json.dumps(raw).encode()) == Missing(reason="denied", detail="")


def test_kinds_that_their_fields_do_not_tell_apart_come_back_as_they_were():
    for one in (Running(), Syscall(number=0, name="read", arguments=(0, 2**64 - 1))):
        piece = Reading(value=one, at_seconds=1.5)
        assert codec.loads(Reading[Syscall | Running] | Missing, codec.dumps(piece)) == piece


def test_free_json_keeps_what_json_lacks():
    record = Reading(value={"loss": math.nan, "$odd": [math.inf, {"$float": "a user's own"}], "none": None})
    data = codec.dumps(record)
    assert codec.loads(Reading[dict[str, codec.Any]], data) == record
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_what_a_terminal_may_obey_stands_escaped_in_the_file(tmp_path):
    hostile = "\x1b]0;title\x07\x9b31m\u202e\udce9"
    data = codec.dumps(Missing(reason="denied", detail=hostile))
    assert all(byte >= 0x20 or byte == 0x0A for byte in data)
    assert not set("\x9b\u202e") & set(data.decode())
    assert codec.loads(Missing, data).detail == hostile


def test_a_missing_piece_is_not_an_empty_one():
    assert codec.loads(Reading[tuple[int, ...]] | Missing, codec.dumps(NONE)) == NONE
