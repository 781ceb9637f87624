"""The run directory: run.json there and back, names, ids, secrets, and who may have it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from harness import redaction
from harness.errors import RecordError, UsageError
from harness.rundir import SCHEMA, Attempt, RunDirectory, RunRecord, clean_name, parse_record
from harness.supervise import claim, identity
from harness.supervise.tree import Identity, identify
from harness.watch.procstat import parse_stat
from tests.support.env import clean_env

if TYPE_CHECKING:
    from pathlib import Path

RECORD = RunRecord(
    run_id="r1",
    name="quickstart",
    created_at="2026-11-22T09:14:03Z",
    host="node-a",
    cwd="/work",
    command=("nsa", "train", "ä ö.yaml"),
    attempts=(Attempt(attempt=1, started_at="2026-11-22T09:14:03Z", command=("nsa",), pid=7, exit_status=3),),
    attempt=1,
    schedule={"kind": "cosine", "peak": 0.001},
)


def test_a_record_loads_back_equal_to_itself() -> None:
    assert parse_record(RECORD.to_json(), "run.json") == RECORD


def test_keys_of_later_versions_are_dropped() -> None:
    document = {**json.loads(RECORD.to_json()), "colour": "red"}
    document["attempts"][0]["weather"] = "fine"
    assert parse_record(json.dumps(document), "run.json") == RECORD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"run"',
        "{}",
        json.dumps({"schema": SCHEMA}),
        '{"schema": "harness.run/99"}',
    ],
)
def test_rubbish_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(RecordError, match=r"some/run\.json"):
        parse_record(text, "some/run.json")


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": None},
        {"git": None},
        {"versions": []},
        {"schedule": 5},
        {"attempts": [{"attempt": 1, "started_at": "then", "ended_by": 5}]},
        {"attempts": [{"attempt": 1, "started_at": "then", "ended_at": []}]},
    ],
)
def test_one_that_was_changed_by_hand_is_refused_where_it_is_read(change: dict[str, object]) -> None:
    """Else one such run ends `harness top --all`, or a report."""
    document = {**json.loads(RECORD.to_json()), **change}
    with pytest.raises(RecordError, match=r"some/run\.json: damaged"):
        parse_record(json.dumps(document), "some/run.json")


def test_an_attempt_is_added_or_replaced_by_its_number() -> None:
    again = dataclasses.replace(RECORD.attempts[0], exit_status=0)
    assert RECORD.with_attempt(again).attempts == (again,)
    second = Attempt(attempt=2, started_at="later", command=("nsa",))
    assert RECORD.with_attempt(second).attempts == (RECORD.attempts[0], second)
    assert RECORD.with_attempt(second).attempt == 2


def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    run = claim.prepare(tmp_path / "run")
    file = claim.RunFile(run, RECORD)
    file.update()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            file.update(name="x" * (1 + len(file.record.name) * 7 % 5000))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            assert run.read().run_id == "r1"
    finally:
        stop.set()
        writer.join()
    assert [each.name for each in run.path.iterdir() if each.name.startswith(".")] == []


def test_new_runs_in_the_same_minute_have_names_of_their_own(tmp_path: Path) -> None:
    first = claim.create(tmp_path / "runs", "quickstart", now_seconds=0.0)
    second = claim.create(tmp_path / "runs", "quickstart", now_seconds=0.0)
    assert first.path.name == "1970-01-01T00-00-quickstart"
    assert second.path.name == "1970-01-01T00-00-quickstart-2"
    assert (tmp_path / "runs" / "latest").resolve() == second.path


def test_a_folder_called_latest_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "runs" / "latest" / "precious").mkdir(parents=True)
    assert claim.create(tmp_path / "runs", "quickstart", now_seconds=0.0).path.is_dir()
    assert (tmp_path / "runs" / "latest" / "precious").is_dir()
    assert not list((tmp_path / "runs").glob(".latest*"))


def test_a_foreign_folder_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        claim.prepare(tmp_path)


def test_the_lock_names_its_holder_and_is_free_once_that_is_killed(tmp_path: Path) -> None:
    run = claim.prepare(tmp_path / "run")
    source = (
        "import sys; from harness.supervise import claim\n"
        f"lock = claim.SupervisorLock(claim.prepare(__import__('pathlib').Path({str(run.path)!r})))\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", source],
        env=clean_env(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(claim.AlreadySupervisedError, match=f"pid {holder.pid} on"):
            claim.SupervisorLock(run)
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    claim.SupervisorLock(run).release()


def test_the_files_of_two_nodes_do_not_clash(tmp_path: Path) -> None:
    one, other = RunDirectory(tmp_path), RunDirectory(tmp_path, node="node-b")
    names = ("record", "lock", "output_log", "output_index", "harness_log", "supervisor_events")
    assert not {getattr(one, name) for name in names} & {getattr(other, name) for name in names}
    assert one.exit_record(1) != other.exit_record(1)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["nsa", "train", "configs/quickstart.yaml"], "quickstart"),
        (["python", "train.py", "--config", "configs/big run.toml"], "big-run"),
        (["python", "-u", "src/pretrain.py", "--lr", "1e-3"], "pretrain"),
        (["python", "-m", "torch.distributed.run", "x"], "run"),
        (["torchrun", "--nproc-per-node", "2", "train.py"], "train"),
        (["/usr/bin/true"], "true"),
        (["./…"], "run"),
    ],
)
def test_a_run_is_named_after_what_it_runs(command: list[str], name: str) -> None:
    assert identity.name_of(command) == name


def test_a_name_is_fit_for_a_path() -> None:
    assert clean_name("../../etc/pass wd\n") == "etc-pass-wd"
    assert clean_name("") == ""
    assert len(clean_name("x" * 500)) <= 60


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--hf-token", "abc"],
        ["train", "--api_key=abc"],
        ["train", "--wandb-api-key", "abc"],
        ["train", "hf_abcdefghijklmnop"],
        ["train", "--url", "https://me:abc@host/x"],
        ["env", "AWS_SECRET_ACCESS_KEY=abc", "train"],
        ["env", "PASSWORD=abc", "train"],
    ],
)
def test_a_secret_on_the_command_line_is_struck_out(command: list[str]) -> None:
    kept, struck = redaction.strike_out(command)
    assert struck
    assert "abc" not in " ".join(kept)


@pytest.mark.parametrize(
    "text",
    [
        "hub:\n  token: abc\n",
        "api_key = 'abc' # of ours",
        '{"auth": {"access_token": "abc", "user": "me"}}',
        "export WANDB_API_KEY=abc",
        "password: a, b & abc",
        "cloning https://me:abc@host/x",
        "sent Authorization: Bearer abcabcabcabcabc",
        "tried hf_abcdefghijklmnop once",
        "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
        "a: {b: 1, secret: abc}",
    ],
)
def test_a_secret_in_a_text_is_struck_out(text: str) -> None:
    assert "abc" not in redaction.strike_out_text(text)


def test_a_text_without_secrets_is_kept() -> None:
    text = "tokens: 5\nmax_tokens: 512  # eos_token: '</s>'\nlr = 4e-3\nurl: https://host/a@b\n"
    assert redaction.strike_out_text(text) == text


@pytest.mark.parametrize(
    "command", [["nsa", "train", "a.yaml"], ["train", "--max-tokens", "512", "--eos-token=</s>"]]
)
def test_what_is_no_secret_is_kept(command: list[str]) -> None:
    assert redaction.strike_out(command) == (tuple(command), False)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["torchrun", "--rdzv-id", "job 7", "train.py"], "job-7"),
        (["/opt/bin/torchrun", "--nnodes=2", "--rdzv_id=job7", "train.py"], "job7"),
        (["python", "-m", "torch.distributed.run", "--rdzv-id=job7", "train.py"], "job7"),
        (["torchrun", "--rdzv-id"], None),
        (["torchrun", "--rdzv-id", "none", "train.py"], None),
        (["python", "train.py", "--rdzv-id", "other"], None),
        ([], None),
    ],
)
def test_torchruns_rendezvous_names_the_run_of_all_nodes(command: list[str], expected: str | None) -> None:
    assert identity.shared_run_id({}, command) == expected
    assert identity.shared_run_id({"TORCHELASTIC_RUN_ID": "outer"}, command) == "outer"


def test_of_the_environment_only_listed_names_are_kept() -> None:
    kept = identity.environment_of({"HF_TOKEN": "s", "AWS_SECRET_ACCESS_KEY": "s", "OMP_NUM_THREADS": "2"})
    assert kept == {"OMP_NUM_THREADS": "2"}


def test_no_git_and_no_interpreter_are_reasons_and_no_failures(tmp_path: Path) -> None:
    assert set(identity.git_state(tmp_path)) == {"reason"}
    assert "reason" in identity.versions_of(["/bin/true"], dict(os.environ), tmp_path)["command"]


@pytest.mark.needs("git")
def test_a_git_tree_is_told_with_its_dirt(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True, timeout=60
        )

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = identity.git_state(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert identity.git_state(tmp_path) == {**clean, "dirty": True}


def test_versions_come_from_the_commands_interpreter(tmp_path: Path) -> None:
    (tmp_path / "platform.py").write_text("raise SystemExit('a module of the user')\n")
    found = identity.versions_of([sys.executable, "x.py"], clean_env(), tmp_path)["command"]
    assert found["interpreter"] == sys.executable
    assert found["python"] == sys.version.split()[0]


@pytest.mark.parametrize("name", ["python", "a) R 1 (b", ") ) )", "(sd-pam)", "new\nline"])
def test_a_process_name_may_contain_anything(name: str) -> None:
    rest = " ".join(str(number) for number in range(4, 53))
    found = parse_stat(f"4711 ({name}) S {rest}\n".encode())
    assert (found.state, found.start_time_ticks) == ("S", 22)
    assert found.cpu_seconds == (14 + 15) / os.sysconf("SC_CLK_TCK")
    assert found.resident_bytes == 24 * os.sysconf("SC_PAGE_SIZE")


def test_a_pid_used_again_is_another_process() -> None:
    ours = identify(os.getpid())
    assert ours.alive()
    assert ours.start_time_ticks is not None
    assert not Identity(pid=ours.pid, start_time_ticks=ours.start_time_ticks + 1).alive()
