"""Two nodes of one job, each under a harness of its own: one id, nobody's files, each its own ranks.

A node is a host name and a boot id of its own, by way of namespaces; or no more than its number, where
nothing is shared.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.support import run as runs
from tests.support import stalls
from tests.support.env import clean_env
from tests.support.wait import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

# $1: the name, $2: a file with its boot id
_BECOME = 'hostname "$1" && mount --bind "$2" /proc/sys/kernel/random/boot_id && shift 2 && exec "$@"'


@dataclass
class Node:
    run: runs.Run
    record_path: Path

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self.run.process is not None
        return self.run.process

    def record(self) -> dict[str, Any]:
        return json.loads(self.record_path.read_text())

    def address(self) -> str:
        def served() -> str | None:
            assert self.process.poll() is None, self.process.communicate()
            try:
                return self.record()["metrics_address"]
            except (OSError, ValueError):
                return None

        return wait_for(served, stalls.DEADLINE_SECONDS, f"metrics in {self.record_path}")

    def ranks_up(self) -> dict[str, float]:
        return {
            series.partition('rank="')[2].rstrip('"}'): value
            for series, value in stalls.scrape(self.address()).items()
            if series.startswith("trainer_up{")
        }

    def wait_for_ranks(self, *ranks: str) -> None:
        wanted = dict.fromkeys(ranks, 1.0)
        wait_for(lambda: self.ranks_up() == wanted, 90, f"ranks {ranks} alone", poll_seconds=0.1)

    def trainers(self) -> list[psutil.Process]:
        return [
            each
            for each in psutil.Process(self.record()["attempts"][-1]["pid"]).children(recursive=True)
            if stalls.TRAINER in each.cmdline()[:3]
        ]

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


@pytest.fixture
def started() -> Iterator[list[Node]]:
    nodes: list[Node] = []
    yield nodes
    for node in nodes:
        # The other node's command is in nobody's run.json that `clean_up` reads.
        node.run.kill_command(_pids(node))
        node.run.clean_up()


def _pids(node: Node) -> set[int]:
    try:
        return {attempt["pid"] for attempt in node.record()["attempts"] if attempt["exit_status"] is None}
    except (OSError, ValueError):
        return set()


@pytest.mark.needs("root", "tmpfs")
def test_two_nodes_in_one_directory_keep_to_their_ranks_and_their_files(
    tmp_path: Path, started: list[Node]
) -> None:
    shared = tmp_path / "shared"
    for number, name in enumerate(("node-a", "node-b")):
        boot = tmp_path / f"boot-{name}"
        boot.write_text(f"0000000{number}-1111-2222-3333-444444444444\n")
        env = clean_env(SLURM_JOB_ID="812", SLURM_NODEID=str(number), GROUP_RANK=str(number))
        run = runs.start(
            shared,
            *stalls.ranks(2, "--seconds", "0.05", "--quiet"),
            options=(*stalls.LIMIT, "--metrics-port", "0"),
            env=env,
            prefix=("unshare", "--mount", "--uts", "sh", "-c", _BECOME, "sh", name, str(boot)),
        )
        record = shared / ("nodes/node-b.json" if number else "run.json")
        started.append(Node(run, record))
        started[-1].address()  # the first to come owns the directory
    one, other = started
    one.wait_for_ranks("0", "1")
    other.wait_for_ranks("2", "3")
    assert [node.record()["run_id"] for node in started] == ["slurm-812", "slurm-812"]
    assert [node.record()["host"] for node in started] == ["node-a", "node-b"]

    # A stall on both, as of a collective that a rank has left: an incident of each, and no clash.
    stopped = [process for node in started for process in node.trainers()]
    assert len(stopped) == 4
    for process in stopped:
        process.suspend()
    folders = (shared / "incidents" / "001", shared / "incidents" / "on-node-b" / "001")

    def incidents() -> list[dict[str, Any]]:
        return [json.loads((folder / "incident.json").read_text()) for folder in folders]

    wait_for(lambda: all((each / "incident.json").exists() for each in folders), 30, "an incident on each")
    for process in stopped:
        process.resume()
    wait_for(lambda: all(each["closed_at"] for each in incidents()), 30, "both to close")
    assert [set(each["ranks"]) <= ranks for each, ranks in zip(incidents(), ({0, 1}, {2, 3}), strict=True)]
    assert [each["how"] for each in incidents()] == ["progress", "progress"]
    assert [(folder / "case.json").exists() for folder in folders] == [True, True]
    assert runs.status(shared)["incidents"] == 2

    for node in started:
        node.interrupt()
    texts = [node.run.end()[1] for node in started]
    assert f"{shared}/incidents/on-node-b/001" in texts[1]
    assert "incident 002" not in "".join(texts)
    assert "harness: " not in "".join(texts), "no part of ours failed"
    lines = (shared / "metrics.jsonl").read_text().splitlines()
    steps = Counter(json.loads(line).get("step") for line in lines)
    assert set(steps.values()) == {1}, "rank 0's steps, written by one node alone"


@pytest.mark.needs("torch")
def test_two_nodes_of_torchrun_have_one_id_and_each_serves_its_local_ranks(
    tmp_path: Path, started: list[Node]
) -> None:
    for number in (0, 1):
        torchrun = (
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"),
            *("--node-rank", str(number), "--rdzv-backend", "c10d", "--rdzv-id", "job 7"),
            *("--rdzv-endpoint", str(tmp_path / "rendezvous"), "--rdzv-conf", "store_type=file"),
        )
        run = runs.start(
            tmp_path / f"node-{number}",
            *torchrun,
            *(stalls.TRAINER, "--quiet"),
            options=("--metrics-port", "0"),
        )
        started.append(Node(run, run.directory / "run.json"))
    up: dict[str, float] = {}
    for node in started:
        wait_for(lambda node=node: len(node.ranks_up()) == 2, 90, "two ranks on each", poll_seconds=0.2)
        assert not up.keys() & node.ranks_up().keys()
        up |= node.ranks_up()
    assert up == {"0": 1.0, "1": 1.0, "2": 1.0, "3": 1.0}
    assert [node.record()["run_id"] for node in started] == ["job-7", "job-7"]

    def stepping() -> list[str]:
        scraped = [series for node in started for series in stalls.scrape(node.address())]
        return [series for series in scraped if "trainer_step{" in series]

    wait_for(lambda: len(stepping()) == 4, 60, "a first step of every rank", poll_seconds=0.2)
    for node in started:
        node.interrupt()
    for node in started:
        node.run.end()
