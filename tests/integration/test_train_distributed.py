"""Several ranks: the same training as one process, the same end for all, and no wait without a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import needs, tiny_run
from tests.support.env import clean_env
from tests.support.wait import wait_for

torch = needs.require("torch")
needs.require("datasets")

from nsa.errors import ConfigError

LONG = 100_000
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
LIMIT = "train.distributed_timeout_seconds=20"


def ended(ranks: list[tiny_run.Forked], timeout: float = 90) -> list[tuple[int | None, str, str]]:
    """Status, output and errors of each rank; all are gone afterwards."""
    try:
        said = [rank.communicate(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *texts) for rank, texts in zip(ranks, said, strict=True)]


def test_two_ranks_equal_one_process_at_the_same_global_batch_and_resume_to_the_bit(tmp_path: Path) -> None:
    config = tiny_run.config(
        tmp_path, train={"steps": 30, "micro_batch": 1}, checkpoint={"every": 0}, eval={"every": 0}
    )
    one, two = tmp_path / "one", tmp_path / "two"
    tiny_run.train_in_process(config, one, "train.micro_batch=2")

    for status, _, errors in ended(tiny_run.start_ranks(2, "train", config, "--out", two)):
        assert status == 0, errors
    for single, double in zip(tiny_run.rows(one), tiny_run.rows(two), strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=1e-5)
        assert double["grad_norm"] == pytest.approx(single["grad_norm"], rel=1e-4)
        assert double["tokens"] == single["tokens"]

    stopped = stopped_by_one_rank(config, tmp_path)
    assert tiny_run.checkpoint_steps(stopped) == [tiny_run.last_step(stopped)]
    for status, _, errors in ended(tiny_run.start_ranks(2, "train", config, "--out", stopped)):
        assert status == 0, errors
    assert tiny_run.losses(stopped) == tiny_run.losses(two)


def stopped_by_one_rank(config: Path, folder: Path) -> Path:
    """One rank alone is told to stop, and both save together. If they were done first, again."""
    for attempt in range(5):
        out = folder / f"stopped-{attempt}"
        ranks = tiny_run.start_ranks(2, "train", config, "--out", out)
        wait_for(lambda: tiny_run.last_step(out) >= 3, 60, "step 3")  # noqa: B023
        ranks[1].send_signal(signal.SIGTERM)
        ends = ended(ranks)
        statuses = [status for status, _, _ in ends]
        if statuses == [75, 75]:
            return out
        assert statuses == [0, 0], ends
    raise AssertionError("five runs ended before they could be stopped")


def test_a_loss_that_is_no_number_ends_every_rank_with_3_and_saves_nothing_after(tmp_path: Path) -> None:
    config, out = tiny_run.config(tmp_path, checkpoint={"every": 1}), tmp_path / "out"
    ends = ended(tiny_run.start_ranks(2, "train", config, "--out", out, "--set", "schedule.peak=1e30"))
    assert [status for status, _, _ in ends] == [3, 3], ends
    assert all("not finite" in errors and "Traceback" not in errors for _, _, errors in ends)
    assert max(tiny_run.checkpoint_steps(out)) == tiny_run.last_step(out)


def test_a_rank_that_dies_ends_the_other_with_a_clear_line(tmp_path: Path) -> None:
    config, out = tiny_run.config(tmp_path, train={"steps": LONG}), tmp_path / "out"
    ranks = tiny_run.start_ranks(2, "train", config, "--out", out, "--set", LIMIT)
    try:
        wait_for(lambda: tiny_run.last_step(out) >= 2, 60, "step 2")
    finally:
        ranks[1].kill()
        (status, _, errors), _ = ended(ranks)
    assert status == 1
    assert errors.startswith("rank 0 of 2 waited in vain for another rank: ")
    assert errors.count("\n") == 1


def test_a_rank_that_dies_ends_the_run_under_torchrun(tmp_path: Path) -> None:
    config, out = tiny_run.config(tmp_path, train={"steps": LONG}), tmp_path / "out"
    torchrun = subprocess.Popen(
        [*LAUNCH, "-m", "nsa", "train", str(config), "--out", str(out), "--set", LIMIT],
        env=clean_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(lambda: tiny_run.last_step(out) >= 2, 90, "step 2")
        os.kill(rank_pid(torchrun.pid, 1), signal.SIGKILL)
        said, _ = torchrun.communicate(timeout=60)
    finally:
        torchrun.kill()
    assert torchrun.returncode != 0, said
    wait_for(lambda: not Path(f"/proc/{torchrun.pid}").exists(), 20, "torchrun to be gone")


def rank_pid(launcher: int, rank: int) -> int:
    """The pid of a launcher's child by its RANK."""
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"no rank {rank} below {launcher}")


def test_a_rank_whose_peer_never_comes_gives_up_in_time(tmp_path: Path) -> None:
    config = tiny_run.config(tmp_path, train={"distributed_timeout_seconds": 1})
    alone = tiny_run.Forked(
        "train",
        config,
        "--out",
        tmp_path / "out",
        env=clean_env(
            RANK="0",
            LOCAL_RANK="0",
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(tiny_run.free_port()),
        ),
    )
    ((status, _, errors),) = ended([alone], timeout=60)
    assert status == 1
    assert "rank 0 of 2 met no others at 127.0.0.1:" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RANK": "0"}, "RANK and WORLD_SIZE must both be whole numbers"),
        ({"RANK": "two", "WORLD_SIZE": "2"}, "must both be whole numbers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "a rank must be below the world size"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "--out: is not given"),
    ],
)
def test_a_launch_that_makes_no_sense_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        tiny_run.train_in_process(tiny_run.config(tmp_path), None)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
