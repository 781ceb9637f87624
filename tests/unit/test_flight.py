"""Dumps of torch's flight recorder: read without trust, and judged by where the ranks part."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from harness import codec
from harness.collect import deadline, flight
from harness.evidence import FlightDump, FlightEntry, Missing, Reading
from harness.rules import diagnose, flights
from harness.rules.scene import Scene
from harness.rules.view import View
from tests.support.cases import case, frame, process, process_sample, sample, stack

if TYPE_CHECKING:
    from pathlib import Path

# As torch 2.13 writes it (version 2.10 of the format), with two entries.
REAL = {
    "version": "2.10",
    "pg_config": {"": {"name": "", "desc": "", "ranks": "[0, 1, 2]"}},
    "comm_lib_version": "",
    "pg_status": {"0": {"last_enqueued_collective": 2, "last_started_collective": -1}},
    "entries": [
        {
            "frames": [
                {
                    "name": "all_reduce",
                    "filename": "/usr/lib/python3/dist-packages/torch/distributed/distributed_c10d.py",
                    "line": 3245,
                },
                {"name": "train", "filename": "/home/u/train.py", "line": 5},
            ],
            "record_id": 0,
            "process_group": ("0", "default_pg"),
            "collective_seq_id": 1,
            "p2p_seq_id": 0,
            "profiling_name": "gloo:all_reduce",
            "input_sizes": [[4]],
            "state": "scheduled",
            "retired": True,
            "is_p2p": False,
        },
        {
            "frames": [],
            "process_group": ("0", "default_pg"),
            "collective_seq_id": 2,
            "profiling_name": "nccl:_all_gather_base",
            "input_sizes": [[2, 3], [1]],
            "state": "started",
            "retired": False,
            "is_p2p": False,
        },
    ],
}


def written(folder: Path, content: Any, rank: int = 0) -> Path:
    path = folder / f"trace_rank_{rank}"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
    return path


def in_the_child(*paths: Path) -> Reading[tuple[FlightDump, ...]] | Missing:
    command = deadline.python_module("harness.collect.flight", str(os.geteuid()), *map(str, paths))
    done = deadline.run(command, 60)
    assert isinstance(done, deadline.Finished), done
    return codec.loads(flight.ANSWER, done.output)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dump_becomes_the_newest_collectives_with_the_users_own_call(tmp_path: Path):
    (found,) = in_the_child(written(tmp_path, REAL, rank=12)).value
    assert (found.rank, found.ranks, found.version) == (12, 3, "2.10")
    assert found.entries == (
        FlightEntry(
            group="0",
            sequence=1,
            operation="all_reduce",
            sizes="[4]",
            pending=False,
            file="/home/u/train.py",
            line=5,
            function="train",
        ),
        FlightEntry(
            group="0",
            sequence=2,
            operation="_all_gather_base",
            sizes="[2, 3] [1]",
            pending=True,
            file="",
            line=0,
            function="",
        ),
    )


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/a-pickle-ran",)


def nested(depth: int) -> list[Any]:
    found: list[Any] = [1]
    for _ in range(depth):
        found = [found, found]
    return found


@pytest.mark.parametrize(
    "content",
    [
        Runs(),
        {"entries": [Runs()]},
        b"cos\nsystem\n(S'touch /tmp/a-pickle-ran'\ntR.",
        b"Psomewhere\n.",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a place in the memo that would take gigabytes
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # so would this bytearray
        b"{" * 100_000,
        b"",
        b"not a dump",
        {"entries": 7},
        [],
    ],
    ids=[
        "call",
        "call inside",
        "global",
        "persistent",
        "memo",
        "bytearray",
        "deep",
        "empty",
        "text",
        "7",
        "list",
    ],
)
def test_what_is_no_dump_is_a_reason_and_runs_nothing(tmp_path: Path, content: Any):
    found = in_the_child(written(tmp_path, content))
    assert isinstance(found, Missing), found
    assert "no dump of the flight recorder" in found.detail
    assert not os.path.exists("/tmp/a-pickle-ran")


def test_strange_things_in_a_dump_are_passed_over(tmp_path: Path):
    strange = {
        "version": ["2"],
        "pg_config": {"a": {"ranks": 7}, "b": 3},
        "entries": [
            7,
            {"collective_seq_id": "1"},
            {"collective_seq_id": 2**70},
            {"collective_seq_id": 3, "is_p2p": True},
            {**REAL["entries"][0], "collective_seq_id": 4, "input_sizes": nested(60), "frames": nested(60)},
            {
                **REAL["entries"][0],
                "collective_seq_id": 5,
                "profiling_name": "\x1b]0;x\x07" * 999,
                "process_group": 3,
            },
        ],
    }
    (found,) = in_the_child(written(tmp_path, strange)).value
    assert [each.sequence for each in found.entries] == [4, 5]
    assert found.entries[0].sizes == "[] []"
    assert len(found.entries[1].operation) <= 300


def test_only_regular_files_of_known_owners_are_opened(tmp_path: Path):
    real = written(tmp_path, REAL)
    (tmp_path / "link_0").symlink_to(real)
    os.mkfifo(tmp_path / "fifo_0")
    for path in (tmp_path / "link_0", tmp_path / "fifo_0", tmp_path / "none_0"):
        assert isinstance(in_the_child(path), Missing)
    stranger = flight.answer([real], {os.geteuid() + 1})
    assert isinstance(stranger, Missing)
    assert "belongs to uid" in stranger.detail
    # One that cannot be read does not take the others along.
    assert len(in_the_child(tmp_path / "link_0", real).value) == 1


# ── judging ─────────────────────────────────────────────────────────────────────────────────────────────────

NOW = 1.7e9
WAITING = stack(
    frame("/home/u/train.py", 20, "wait_for_all"), frame("/home/u/train.py", 30, "<module>", entry=True)
)


def entered(*operations: str, pending_from: int = 99) -> tuple[FlightEntry, ...]:
    return tuple(
        FlightEntry(
            group="0",
            sequence=number,
            operation=text.split(" ")[0],
            sizes=text.partition(" ")[2],
            pending=number >= pending_from,
            file="/home/u/train.py",
            line=number,
            function="start",
        )
        for number, text in enumerate(operations, 1)
    )


def parting(*ranks: tuple[FlightEntry, ...], ago_seconds: float = 1.0) -> flights.Parting | None:
    dumps = tuple(
        FlightDump(
            rank=rank,
            ranks=len(ranks),
            path=f"/x/{rank}",
            modified_wall_seconds=NOW - ago_seconds,
            version="2.10",
            entries=each,
        )
        for rank, each in enumerate(ranks)
    )
    return flights.parting(Scene(View(with_dumps(dumps))))


def with_dumps(dumps: tuple[FlightDump, ...]) -> Any:
    environment = Reading(value={"RANK": "0", "WORLD_SIZE": "3"})
    one = process(
        age_seconds=Reading(value=600.0),
        environment=environment,
        command=Reading(value=("python", "train.py")),
        executable=Reading(value="/usr/bin/python3"),
    )
    seen = [sample(process_sample(at=at, stacks=(WAITING,)), at=at) for at in (0.0, 1.0)]
    return case(*seen, processes=(one,), flight=Reading(value=dumps))


def test_the_rank_that_entered_something_else_is_the_odd_one():
    same = entered("all_reduce [4]", "all_reduce [4]", "all_reduce [4]", pending_from=2)
    other = entered("all_reduce [4]", "barrier", "all_reduce [4]", pending_from=2)
    found = parting(same, other, same)
    assert found is not None
    assert (found.sequence, found.odd, found.absent) == (2, (1,), False)
    assert "flight recorder: rank 1 entered barrier as number 2 at train.py:2 in start" in found.words


def test_an_all_reduce_of_another_size_is_another_collective_but_a_broadcast_is_not():
    four, eight = entered("all_reduce [4]", pending_from=1), entered("all_reduce [8]", pending_from=1)
    assert parting(four, four, eight).odd == (2,)
    assert parting(entered("all_to_all [4]"), entered("all_to_all [8]")) is None


def test_the_rank_that_never_came_is_absent():
    ahead = entered("all_reduce [4]", "all_reduce [4]", pending_from=2)
    found = parting(ahead, ahead, entered("all_reduce [4]"))
    assert found is not None
    assert (found.sequence, found.odd, found.absent) == (2, (2,), True)
    assert found.words[-1] == "flight recorder: rank 2 never entered number 2"


def test_ranks_in_step_do_not_part():
    same = entered("all_reduce [4]", "barrier", pending_from=2)
    assert parting(same, same, same) is None
    # One is ahead, but with what it has done already: nobody waits.
    assert parting(entered("all_reduce [4]", "barrier"), entered("all_reduce [4]")) is None
    assert parting(same) is None


def test_dumps_of_an_older_training_count_for_nothing():
    waits, other = entered("all_reduce [4]", pending_from=1), entered("barrier", pending_from=1)
    assert parting(waits, other) is not None
    assert parting(waits, other, ago_seconds=3600.0) is None


def test_the_verdict_names_a_rank_of_another_machine_too():
    ahead = entered("all_reduce [4]", "all_reduce [4]", pending_from=2)
    dumps = tuple(
        FlightDump(rank=rank, ranks=3, path="/x", modified_wall_seconds=NOW, version="2.10", entries=each)
        for rank, each in enumerate((ahead, ahead, entered("all_reduce [4]")))
    )
    found = diagnose(with_dumps(dumps)).verdict
    assert (found.state, found.cause) == ("hung", "collective-straggler")
    assert "Rank 2 never came to all_reduce [4], number 2 of its group" in found.summary
    assert "it is on another machine" in found.summary
