"""`harness run` ends as its command did, and refuses in one clear line what it cannot do."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import run as runs
from tests.support.programs import completed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


_GLIBC = 0b11 << 31  # signals 32 and 33 are glibc's own; its posix_spawn leaves them ignored


@pytest.mark.parametrize(
    ("source", "status", "ended_by"),
    [
        ("pass", 0, "itself"),
        ("raise SystemExit(1)", 1, "itself"),
        ("raise SystemExit(75)", 75, "itself"),
        ("raise SystemExit(124)", 124, "itself"),
        ("raise SystemExit(255)", 255, "itself"),
        ("1/0", 1, "itself"),
        ("import os; os.abort()", 134, "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139, "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143, "SIGTERM"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 3)",
            128 + signal.SIGRTMIN + 3,
            "signal 37",
        ),
    ],
)
def test_the_exit_status_is_the_commands_own(
    start: Callable[..., runs.Run], source: str, status: int, ended_by: str
) -> None:
    run = start(*runs.python(source))
    assert run.end()[0] == status
    attempt = run.attempt()
    assert (attempt["exit_status"], attempt["ended_by"]) == (status, ended_by)
    assert attempt["ended_at"] is not None


def test_it_is_known_also_where_whoever_started_us_ignores_their_children(
    start: Callable[..., runs.Run],
) -> None:
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    source = "import subprocess, sys; sys.exit(subprocess.run(['sh', '-c', 'exit 3']).returncode)"
    assert start(*runs.python(source), prefix=(sys.executable, "-c", ignoring)).end()[0] == 3


def test_output_of_both_streams_lands_in_the_log(start: Callable[..., runs.Run]) -> None:
    run = start(*runs.python("import sys; print('to out'); print('to err', file=sys.stderr)"))
    assert run.end()[0] == 0
    assert run.log() == "to out\nto err\n"


def test_the_command_is_told_its_run(start: Callable[..., runs.Run]) -> None:
    names = "HARNESS_RUN_DIR", "HARNESS_RUN_ID", "HARNESS_ATTEMPT", "PYTHONUNBUFFERED"
    run = start(
        *runs.python(f"import os; print([os.environ[n] for n in {names}])"), options=("--run-id", "job7")
    )
    assert run.end()[0] == 0
    assert run.log() == f"{[str(run.directory), 'job7', '1', '1']}\n"


def test_the_command_has_default_signals_and_no_stray_descriptors(start: Callable[..., runs.Run]) -> None:
    source = (
        "import os; s = open('/proc/self/status').read();"
        "print([l.split()[1] for l in s.splitlines() if l.startswith(('SigBlk', 'SigIgn'))]);"
        "print(sorted(os.listdir('/proc/self/fd')))"
    )
    run = start("sh", "-c", f'exec {sys.executable} -c "$0"', source)
    assert run.end()[0] == 0
    blocked_ignored, descriptors = run.log().splitlines()
    blocked, ignored = (int(mask, 16) & ~_GLIBC for mask in ast.literal_eval(blocked_ignored))
    assert blocked == 0
    assert ignored == 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1  # by the Python that tells it
    # 0 to 2, and the one that lists.
    assert descriptors == "['0', '1', '2', '3']"


def _script(path: Path, text: str, mode: int) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda d: "no-such-command-anywhere", 127, "no such command on PATH"),
        (lambda d: str(d / "missing.py"), 127, "no such file"),
        (str, 126, "a directory"),
        (lambda d: f"{d}/{'n' * 300}", 126, "File name too long"),
        (lambda d: _script(d / "plain.py", "print(1)", 0o644), 126, "not executable"),
        (lambda d: _script(d / "bare.py", "print(1)", 0o755), 126, "with a #! line"),
        (lambda d: _script(d / "bad.sh", "#!/no/such/interpreter\n", 0o755), 127, "/no/such/interpreter"),
        (lambda d: _script(d / "rubbish", "\x7fELF rubbish", 0o755), 126, "neither a program"),
    ],
)
def test_what_cannot_be_executed_is_said_in_one_line(
    start: Callable[..., runs.Run], tmp_path: Path, make: Callable[[Path], str], status: int, words: str
) -> None:
    run = start(make(tmp_path))
    code, text = run.end()
    assert code == status
    assert words in text.splitlines()[-1]
    assert len(text.splitlines()) <= 2  # which run it was; and why it is none
    assert "Traceback" not in text


def test_an_argument_that_is_no_text_is_passed_on_and_remembered(start: Callable[..., runs.Run]) -> None:
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")
    run = start("echo", odd)
    assert run.end()[0] == 0
    assert run.record()["command"] == ["echo", odd]
    again = start()
    assert again.end()[0] == 0
    assert (run.directory / "log" / "output.log").read_bytes() == b"caf\xe9\n" * 2
    assert runs.status(run.directory)["command"] == ["echo", odd]


def test_a_mistyped_command_leaves_no_run_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [*runs.HARNESS, "run", "--", "no-such-command-anywhere"],
        cwd=tmp_path,
        env=runs.clean_env(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 127
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["true"], "harness run -- true"),
        (["nsa", "train", "x.yaml"], "harness run -- nsa train x.yaml"),
        ([], "no command"),
        (["--"], "no command"),
        (["--log-keep", "much", "--", "true"], "no size"),
        (["--metrics-port", "70000", "--", "true"], "no port"),
        (["--grace", "-1", "--", "true"], "no number of seconds"),
        (["--max-restarts", "x", "--", "true"], "no number of restarts"),
        (["--max-restarts", "3", "--", "true"], "nothing is restarted with --on-stall report"),
        (["--stall-timeout", "train=never", "--", "true"], "train=never"),
        (["--on-stall", "panic", "--", "true"], "panic"),
        (["--nonsense", "--", "true"], "--nonsense"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_125(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = completed([*runs.HARNESS, "run", *arguments], cwd=tmp_path)
    assert done.returncode == 125
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
