"""Every note where it is due, and the nearest case where it is not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from harness.evidence import (
    Artifact,
    Case,
    Descriptor,
    Disk,
    FileFacts,
    KnownLine,
    Local,
    Log,
    Reading,
    Setting,
)
from harness.rules import NOTES, diagnose
from harness.schedules import scheduled_rate
from tests.support.cases import NONE, PID, case, frame, process, process_sample, sample, stack

NOW = 1.7e9  # when `cases.case` is taken
AGE_SECONDS = 600.0
FOLDER = "/home/u/run"
SCHEDULE = {"kind": "cosine", "peak": 2e-4, "warmup": 100, "total": 1000, "floor": 0.1}


def notes(found: Case) -> dict[str, str]:
    return {each.cause: each.summary for each in diagnose(found).notes}


def trainer(*command: str, environment: dict[str, str] | None = None, **changes: Any) -> Any:
    return process(
        command=Reading(value=command or ("python", "train.py")),
        executable=Reading(value="/usr/bin/python3"),
        cwd=Reading(value=FOLDER),
        age_seconds=Reading(value=AGE_SECONDS),
        environment=Reading(value=environment or {}),
        **changes,
    )


# ── logs ────────────────────────────────────────────────────────────────────────────────────────────────────


def stdout(kind: str = "file", size_bytes: int = 0) -> Any:
    facts = FileFacts(size_bytes=size_bytes, modified_wall_seconds=NOW, device="8:1", inode=7, owner_uid=1000)
    return Reading(
        value=(
            Descriptor(
                number=1,
                kind=kind,  # type: ignore[arg-type]
                target=f"{FOLDER}/training.log",
                access="write",
                flags=1,
                position=0,
                inode=NONE,
                filesystem=NONE,
                file=Reading(value=facts) if kind == "file" else NONE,
            ),
        )
    )


def test_an_empty_log_behind_a_file_is_buffered():
    found = notes(case(processes=(trainer(descriptors=stdout()),)))
    assert found["log-buffered"].startswith("training.log is empty because stdout is a file and Python holds")
    piped = notes(case(processes=(trainer(descriptors=stdout("pipe")),)))
    assert piped["log-buffered"].startswith("stdout is a pipe")


@pytest.mark.parametrize(
    "given",
    [
        trainer("python", "-u", "train.py", descriptors=stdout()),
        trainer("python", "-Bu", "train.py", descriptors=stdout()),
        trainer("python", "-X", "utf8", "-u", "train.py", descriptors=stdout()),
        trainer(descriptors=stdout(), environment={"PYTHONUNBUFFERED": "1"}),
        trainer(descriptors=stdout("tty")),
        trainer(descriptors=stdout(size_bytes=12)),
        trainer(descriptors=NONE),
    ],
    ids=["-u", "-Bu", "-X utf8 -u", "PYTHONUNBUFFERED", "a terminal", "not empty", "not seen"],
)
def test_a_log_is_not_buffered(given: Any):
    assert "log-buffered" not in notes(case(processes=(given,)))


@pytest.mark.parametrize(
    "command",
    [("python", "train.py", "-u"), ("python", "-X", "utf8", "train.py"), ("python", "-m", "lumen", "-u")],
)
def test_an_option_of_the_program_is_none_of_pythons(command: tuple[str, ...]):
    assert "log-buffered" in notes(case(processes=(trainer(*command, descriptors=stdout()),)))


def log(silent_seconds: float, tail: str = "step 1\n") -> Any:
    return Reading(
        value=Log(
            path=f"{FOLDER}/training.log",
            size_bytes=len(tail),
            modified_wall_seconds=NOW - silent_seconds,
            tail=tail,
        )
    )


def test_a_log_that_nobody_wrote_to_for_minutes_is_silent():
    assert "3 min ago" in notes(case(log=log(180.0)))["log-silent"]
    assert "log-silent" not in notes(case(log=log(60.0)))
    assert "log-silent" not in notes(case(log=log(180.0, tail="")))  # an empty one is another note's


def test_the_tokenizers_warning_is_explained_wherever_it_stands():
    line = KnownLine(
        kind="tokenizer-length",
        path=f"{FOLDER}/old.log",
        text="Token indices sequence length is longer than … for this model (1249 > 1024). Running",
        modified_wall_seconds=NOW - 9000,
    )
    found = notes(case(processes=(trainer(),), known_lines=Reading(value=(line,))))["tokenizer-warning"]
    assert found.startswith("old.log, of an earlier run, warns of a sequence that is too long (1249 > 1024)")
    own = dataclasses.replace(line, modified_wall_seconds=NOW - 5)
    found = notes(case(processes=(trainer(),), known_lines=Reading(value=(own,))))["tokenizer-warning"]
    assert found.startswith("old.log warns")
    assert "tokenizer-warning" not in notes(case(processes=(trainer(),), known_lines=Reading(value=())))


# ── artifacts and disks ─────────────────────────────────────────────────────────────────────────────────────


def artifact(kind: Any, ago_seconds: float, name: str = "file") -> Artifact:
    return Artifact(
        kind=kind, path=f"{FOLDER}/out/{name}", size_bytes=1, modified_wall_seconds=NOW - ago_seconds
    )


def with_artifacts(*found: Artifact) -> Case:
    return case(processes=(trainer(),), artifacts=Reading(value=found))


def test_tensorboard_of_an_older_run_is_stale():
    old, own = artifact("tensorboard", AGE_SECONDS + 7200), artifact("tensorboard", 5)
    assert notes(with_artifacts(old))["stale-artifacts"] == (
        "out was last written 2 h before this process began: TensorBoard shows an older run."
    )
    assert "stale-artifacts" not in notes(with_artifacts(old, own))
    assert "stale-artifacts" not in notes(with_artifacts(artifact("log", AGE_SECONDS + 7200)))


def test_a_checkpoint_of_an_older_run_is_not_its_own():
    old = artifact("checkpoint", AGE_SECONDS + 7200, "last.pt")
    found = notes(with_artifacts(old))["stale-checkpoint"]
    assert found == "The newest checkpoint, out/last.pt, is 2 h older than this process: not its own."
    assert "stale-checkpoint" not in notes(with_artifacts(old, artifact("checkpoint", 5)))


def test_a_checkpoint_that_came_every_minute_and_comes_no_more_is_overdue():
    shards = [artifact("checkpoint", ago + late, f"{ago}") for ago in (540, 480, 420, 360) for late in (0, 2)]
    assert notes(with_artifacts(*shards))["stale-checkpoint"].endswith(
        "was written 6 min ago; until then one came every 1 min."
    )
    on_time = [artifact("checkpoint", ago) for ago in (540, 400, 260, 120)]
    assert "stale-checkpoint" not in notes(with_artifacts(*on_time))
    # One alone has no pace.
    assert "stale-checkpoint" not in notes(with_artifacts(artifact("checkpoint", 590)))


@pytest.mark.parametrize(
    ("total", "free", "inodes", "words"),
    [
        (500e9, 0, 10, "has 0 B free, of 500.0 GB"),
        (100e9, 0.4e9, 10, "has 400 MB free"),
        (100e9, 50e9, 0, "has no free inode"),
        (100e9, 1.5e9, 10, None),  # 1.5 %
        (50e12, 300e9, 10, None),  # 0.6 %, of a large disk
    ],
)
def test_a_disk_is_full_when_there_is_no_room_to_write(
    total: float, free: float, inodes: int, words: str | None
):
    disk = Disk(path=FOLDER, total_bytes=int(total), free_bytes=int(free), free_inodes=inodes)
    found = notes(case(processes=(trainer(),), disks=Reading(value=(disk,))))
    if words is None:
        assert "disk-full" not in found
    else:
        assert words in found["disk-full"]


# ── what it learns with ─────────────────────────────────────────────────────────────────────────────────────


def row(step: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "step": step,
        "wall_seconds": NOW - 500 + step,
        "step_seconds": 1.0,
        "loss": 10.0 / math.sqrt(step) * (1.0 + 0.02 * math.sin(step * 12.9898)),
        "learning_rates": [scheduled_rate(SCHEDULE, step)],
        "tokens": 4096,
    }
    return {**fields, **changes}


def emitting(rows: list[dict[str, Any]], schedule: dict[str, Any] | None = SCHEDULE) -> Case:
    """A trainer whose heartbeat has these last rows."""
    record = {
        "rank": 0,
        "pid": PID,
        "stage": "train",
        "step": rows[-1]["step"] if rows else None,
        "schedule": schedule,
        "last": rows[-1] if rows else None,
        "last_progress_monotonic_seconds": 1.0,
        "last_progress_wall_seconds": NOW - 100,
    }
    one = sample(process_sample(at=0.0), at=0.0, records=Reading(value=(record,)))
    return case(one, processes=(trainer(),), steps=Reading(value=tuple(rows)))


def test_a_training_in_order_gets_no_note():
    for last in (1, 40, 300, 600, 1000):
        found = notes(emitting([row(step) for step in range(max(1, last - 500), last + 1)]))
        assert set(found) <= ({"lr-warmup"} if last <= 100 else set()), (last, found)


def test_a_rate_in_warm_up_is_said_to_be_one_and_where_it_goes():
    assert notes(emitting([row(1)]))["lr-warmup"] == (
        "LR 2e-6 is step 1 of a 100-step warm-up to 2e-4, as configured: it gets there at step 100."
    )
    assert "lr-warmup" not in notes(emitting([row(101)]))
    assert "lr-warmup" not in notes(emitting([row(5)], {**SCHEDULE, "warmup": 0}))


def test_before_the_first_step_the_declared_schedule_tells_what_it_will_be():
    assert notes(emitting([]))["lr-warmup"].startswith("LR 2e-6 is step 1 of a 100-step warm-up")
    assert "lr-warmup" not in notes(emitting([], None))
    assert "lr-warmup" not in notes(emitting([], {"kind": "constant", "peak": 1e-3}))


def local(name: str, value: str) -> Local:
    return Local(name=name, argument=False, address=1, kind="number", value=value)


def with_locals(method: str = "blocking", **values: str) -> Case:
    inner = frame("/home/u/model.py", 5, "forward", locals=(local("t", "412"),))
    outer = frame("/home/u/train.py", 20, "train", locals=tuple(local(*each) for each in values.items()))
    seen = process_sample(at=0.0, stacks=(stack(inner, outer),), method=method)
    return case(sample(seen, at=0.0), processes=(trainer(),))


@pytest.mark.parametrize(
    "values",
    [
        {"step": "1", "lr": "0.0000001", "peak_lr": "0.0002", "warmup_steps": "2000"},
        {"step": "0", "lr": "1e-07", "max_lr": "0.0002", "warmup": "2000"},
        {"iter_num": "0", "cur_lr": "0.0000001", "learning_rate": "0.0002", "warmup_iters": "2000"},
    ],
)
def test_a_trainers_own_variables_tell_of_a_warm_up_where_they_fit(values: dict[str, str]):
    assert notes(with_locals(**values))["lr-warmup"] == (
        "LR 1e-7 is step 1 of a 2,000-step warm-up to 2e-4, as configured: it gets there at step 2,000."
    )


@pytest.mark.parametrize(
    "values",
    [
        {"step": "7", "lr": "0.0000001", "peak_lr": "0.0002", "warmup_steps": "2000"},
        {"step": "1", "lr": "0.0000001", "peak_lr": "0.0002"},
        {"step": "2500", "lr": "0.0002", "peak_lr": "0.0002", "warmup_steps": "2000"},
        {"step": "1", "lr": "nan", "peak_lr": "0.0002", "warmup_steps": "2000"},
    ],
    ids=["does not fit", "no warm-up", "after it", "no number"],
)
def test_variables_that_do_not_fit_say_nothing(values: dict[str, str]):
    assert "lr-warmup" not in notes(with_locals(**values))


@pytest.mark.parametrize(
    "command",
    [
        ("python", "train.py", "--lr", "2e-4", "--warmup-steps", "2000"),
        ("python", "train.py", "--lr=2e-4", "--warmup_steps=2000"),
        ("python", "train.py", "optim.lr=2e-4", "optim.warmup=2000"),
    ],
)
def test_what_it_was_configured_with_may_stand_among_its_options(command: tuple[str, ...]):
    given = with_locals(step="1", lr="0.0000001")
    assert "lr-warmup" not in notes(given)
    found = dataclasses.replace(given, processes=(trainer(*command),))
    assert "step 1 of a 2,000-step warm-up to 2e-4" in notes(found)["lr-warmup"]
    other = tuple(word.replace("2000", "3000") for word in command)
    assert "lr-warmup" not in notes(dataclasses.replace(given, processes=(trainer(*other),)))


def test_or_in_its_configuration_file():
    path = f"{FOLDER}/configs/m7c.yaml"
    numbers = (
        Setting(name="peak", value=2e-4, path=path),
        Setting(name="warmup_steps", value=2000, path=path),
    )
    given = dataclasses.replace(with_locals(step="0", lr="1e-07"), settings=Reading(value=numbers))
    (note,) = (each for each in diagnose(given).notes if each.cause == "lr-warmup")
    assert "step 1 of a 2,000-step warm-up to 2e-4" in note.summary
    assert "peak and warmup_steps of configs/m7c.yaml" in note.evidence[1]
    # Where no rate is seen, a configuration says nothing.
    assert "lr-warmup" not in notes(dataclasses.replace(given, samples=with_locals(step="0").samples))


def test_variables_of_a_dump_that_did_not_pause_say_nothing():
    values = {"step": "1", "lr": "0.0000001", "peak_lr": "0.0002", "warmup_steps": "2000"}
    assert "lr-warmup" not in notes(with_locals("nonblocking", **values))


def test_a_rate_of_zero_is_said_but_not_at_the_end_of_a_decay_to_zero():
    zero = {**SCHEDULE, "floor": 0.0}
    assert "step 50 is 0" in notes(emitting([row(50, learning_rates=[0.0])], zero))["lr-zero"]
    assert "lr-zero" not in notes(emitting([row(1200, learning_rates=[0.0])], zero))
    assert "lr-zero" not in notes(emitting([row(50, learning_rates=[0.0, 2e-5])]))


def test_a_rate_off_its_declared_schedule_is_said():
    off = notes(emitting([row(500, learning_rates=[2e-4])]))
    assert off["lr-off-schedule"].startswith("LR 2e-4 at step 500 is not what the declared schedule asks for")
    # Trainers count steps from 0 or 1, and groups have rates of their own.
    for near in (499, 501):
        assert "lr-off-schedule" not in notes(
            emitting([row(500, learning_rates=[scheduled_rate(SCHEDULE, near)])])
        )
    groups = [2e-5, scheduled_rate(SCHEDULE, 500)]
    assert "lr-off-schedule" not in notes(emitting([row(500, learning_rates=groups)]))
    assert "lr-off-schedule" not in notes(emitting([row(500, learning_rates=[2e-4])], {"peak": 2e-4}))


def test_a_loss_that_is_no_number_is_said_from_its_first_step_on():
    rows = [row(step) for step in range(1, 50)]
    bad = [*rows, *(row(step, loss=math.nan) for step in range(50, 60))]
    assert "was nan since step 50" in notes(emitting(bad))["loss-nonfinite"]
    once = [*rows, row(50, loss=math.inf), row(51)]
    assert "was inf at step 50" in notes(emitting(once))["loss-nonfinite"]
    assert "loss-nonfinite" not in notes(emitting([*rows, row(50, loss=None)]))


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        ("step 1 loss 4.2\nstep 2 loss nan lr 1e-4\n", True),
        ("{'loss': inf, 'epoch': 1}\n", True),
        ("step 1 loss nan\nstep 2 loss 4.2\n", False),
        ("finance: loss of income\nlossy nan\n", False),
        ("step 1 loss=3.1e-2\n", False),
    ],
)
def test_of_a_trainer_that_only_logs_the_last_loss_counts(tail: str, said: bool):
    assert ("loss-nonfinite" in notes(case(processes=(trainer(),), log=log(1.0, tail)))) is said


def test_a_loss_that_stands_still_is_flat_and_a_noisy_plateau_is_not():
    same = [row(step, loss=2.3026 + 1e-5 * (step % 3)) for step in range(500, 600)]
    assert "The loss has been 2.303 for 64 steps" in notes(emitting(same))["loss-flat"]
    plateau = [row(step, loss=2.3 + 0.01 * math.sin(step * 12.9898)) for step in range(500, 1000)]
    assert "loss-flat" not in notes(emitting(plateau))
    assert "loss-flat" not in notes(emitting(same[:40]))


def test_a_loss_that_never_fell_is_flat_unless_it_is_still_warming_up():
    never = [row(step, loss=10.8 + 0.05 * math.sin(step * 12.9898)) for step in range(1, 301)]
    assert "has not fallen in 300 steps" in notes(emitting(never))["loss-flat"]
    assert "loss-flat" not in notes(emitting(never, {**SCHEDULE, "warmup": 2000}))
    slowly = [row(step, loss=10.8 * (1 - step / 3000)) for step in range(1, 301)]
    assert "loss-flat" not in notes(emitting(slowly))


def test_throughput_that_dropped_is_said_but_no_pause_now_and_then():
    steady = [row(step) for step in range(400, 480)]
    dropped = [row(step, step_seconds=2.5) for step in range(480, 500)]
    found = notes(emitting([*steady, *dropped]))["throughput-drop"]
    assert "tokens a second, those before them" in found
    longer = [row(step, step_seconds=1.3) for step in range(480, 500)]
    assert "throughput-drop" not in notes(emitting([*steady, *longer]))
    paused = [row(step, step_seconds=9.0 if step % 4 == 0 else 1.0) for step in range(480, 500)]
    assert "throughput-drop" not in notes(emitting([*steady, *paused]))
    # Longer sequences take longer, and make as many tokens.
    larger = [row(step, step_seconds=2.5, tokens=10240) for step in range(480, 500)]
    assert "throughput-drop" not in notes(emitting([*steady, *larger]))
    assert "throughput-drop" not in notes(emitting([*steady[:10], *dropped]))


def test_every_note_is_made_and_not_made_here():
    text = Path(__file__).read_text()
    for cause in (cause for rule in NOTES for cause in rule.causes):
        assert f'["{cause}"]' in text
        assert f'"{cause}" not in' in text
