"""Parts of `harness.auto` by themselves: late values, phases, whose record it is, what is said to users."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import wire
from harness.auto.clockwork import BACKWARD, DATA, FORWARD, OTHER, StepClock
from harness.auto.reading import Late
from harness.supervise.instrumenting import SITE, Unseen
from tests.support import auto
from tests.support.env import REPOSITORY, clean_env


class Device:
    """A device that is done when told so: CUDA's own events need one."""

    def __init__(self):
        self.done = False
        self.asked = 0

    def query(self):
        self.asked += 1
        return self.done

    def take(self, slot):
        return 2.5 + slot


def test_a_late_value_is_asked_for_and_never_waited_for():
    device = Device()
    value = Late(device, 1, device)
    assert value.get() is None
    device.done = True
    assert value.get() == value.get() == 3.5
    assert device.asked == 2


def by_name(seconds):
    return {name: value for name, value in zip(wire.PHASES, seconds, strict=True) if value}


def test_time_between_events_is_a_phases_and_nested_stages_keep_theirs():
    clock = StepClock(0.0)
    clock.account(DATA, 1.0)
    clock.nested("compile", 5.0)
    clock.account(FORWARD, 8.0)
    clock.nested("checkpoint", 3.0)
    clock.account(OTHER, 12.0)
    assert by_name(clock.take(host=True)) == {"data": 1.0, "forward": 2.0, "checkpoint": 3.0, "other": 1.0}
    assert by_name(clock.take(host=True)) == {}


def test_of_a_devices_work_the_hosts_clock_tells_the_waiting_alone():
    clock = StepClock(0.0)
    clock.account(DATA, 1.0)
    clock.account(FORWARD, 2.0)
    clock.account(BACKWARD, 3.0)
    assert by_name(clock.take(host=False)) == {"data": 1.0}


_HOLDS = """
import sys
from harness import emit
assert emit._speak_for(lambda: None, provisional={provisional})
emit.stage("command")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("provisional", [True, False])
def test_only_a_provisional_record_gives_way_to_a_process_that_trains(provisional, tmp_path):
    env = clean_env(HARNESS_RUN_DIR=str(tmp_path))
    code = (
        "import os; from harness import emit\n"
        "print(os.getpid(), emit._speak_for(lambda: None, provisional=True),"
        " emit._speak_for(lambda: None, provisional=False))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS.format(provisional=provisional)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout.readline() == "ready\n"
        said = auto.run(sys.executable, "-c", code, env=env, cwd=tmp_path)
        owner = auto.recorded(tmp_path)[2].pid
        first.stdin.close()
        first.wait(20)
    pid, early, training = said.stdout.split()
    assert said.stderr == ""
    assert (early, training) == ("False", str(provisional))
    assert (owner == int(pid)) is provisional


def test_a_process_that_learns_its_rank_moves_to_that_ranks_record(tmp_path):
    code = (
        "from harness import emit\n"
        "emit._speak_for(lambda: None, provisional=True)\n"
        "emit._speak_for(lambda: None, rank=3, world_size=4)\n"
        "emit.step(1, loss=0.5)"
    )
    auto.run(sys.executable, "-c", code, env=clean_env(HARNESS_RUN_DIR=str(tmp_path)), cwd=tmp_path)
    assert auto.recorded(tmp_path)[2].closed_status == "moved"
    rows, _, beat = auto.recorded(tmp_path, rank=3)
    assert ([row.step for row in rows], beat.world_size) == ([1], 4)


def test_no_signal_of_a_trainer_is_touched_that_never_asked(tmp_path):
    code = "from harness import emit; emit._speak_for(lambda: None)"
    auto.run(sys.executable, "-c", code, env=clean_env(HARNESS_RUN_DIR=str(tmp_path)), cwd=tmp_path)
    assert auto.recorded(tmp_path)[2].traceback_signal is None


class Proc:
    """A /proc of one process."""

    def __init__(
        self, folder: Path, command: str, *, pythonpath: str | None, libraries: str = "libtorch_cpu.so"
    ):
        process = folder / "17"
        process.mkdir(parents=True)
        (process / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
        path = "" if pythonpath is None else f"PYTHONPATH={pythonpath}\0"
        (process / "environ").write_bytes(f"HOME=/root\0{path}".encode())
        (process / "maps").write_text(
            f"7f00-7f01 r-xp 00000000 00:00 0 /site-packages/torch/lib/{libraries}\n"
        )
        self.unseen = Unseen(clock=lambda: 100.0, proc=folder)

    def look(self, *, recorded: bool = False) -> str | None:
        return self.unseen.look(lambda: [17, 18], recorded=recorded)


@pytest.mark.parametrize("options", ["-I", "-E", "-uS", "-X dev -I"])
def test_where_pythonpath_is_not_read_one_line_says_what_to_do(options, tmp_path):
    proc = Proc(tmp_path, f"/usr/bin/python3.11 {options} train.py", pythonpath=SITE)
    line = proc.look()
    assert line is not None
    assert f"python -{options[-1]} reads no PYTHONPATH" in line
    assert f"start it as python -{options[-1]} {Path(SITE).parent} SCRIPT" in line
    assert "\n" not in line
    assert proc.look() is None  # once


def test_where_pythonpath_was_set_anew_one_line_says_so(tmp_path):
    line = Proc(tmp_path, "python train.py", pythonpath="/src").look()
    assert line is not None
    assert "PYTHONPATH of pid 17 was set anew" in line


@pytest.mark.parametrize(
    ("command", "pythonpath", "libraries", "recorded"),
    [
        ("python train.py", SITE, "libtorch_cpu.so", False),  # it will speak yet
        ("python -I tool.py", SITE, "libc.so.6", False),  # no trainer
        ("python -I -m torch.distributed.run train.py", SITE, "libtorch_cpu.so", False),  # its ranks will
        ("python -I train.py", SITE, "libtorch_cpu.so", True),  # somebody speaks
        ("sh -I train.sh", "/src", "libtorch_cpu.so", False),
    ],
)
def test_otherwise_nothing_is_said(command, pythonpath, libraries, recorded, tmp_path):
    proc = Proc(tmp_path, command, pythonpath=pythonpath, libraries=libraries)
    assert proc.look(recorded=recorded) is None


def test_auto_stands_on_the_standard_library_and_emit_alone(tmp_path):
    """Loaded in a Python without site-packages: whatever else it touched would be an ImportError."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import harness.auto.session, harness.auto.torch_hooks, harness.auto.frameworks\n"
        "print(sorted(m for m in sys.modules if m.startswith('harness')))"
    )
    done = auto.run(sys.executable, "-S", "-c", code, str(REPOSITORY), env=clean_env(), cwd=tmp_path)
    names = set(done.stdout.strip("[]'\n").split("', '"))
    assert {name for name in names if not name.startswith("harness.auto")} == {
        "harness",
        "harness.emit",
        "harness.place",
        "harness.wire",
    }
