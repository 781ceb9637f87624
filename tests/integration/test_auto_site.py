"""How `harness.auto` gets into a Python, and that nothing else changes there: no torch needed.

`accelerate` here is an empty module of that name: importing it has the process claim its record.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.auto import process
from harness.supervise.instrumenting import SITE, environment_of
from tests.integration.test_two_environments import what_emit_stands_on
from tests.support import auto, venvs
from tests.support.env import REPOSITORY
from tests.support.programs import completed
from tests.support.wait import wait_for

AUTO = Path(SITE).parent


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has never heard of a harness."""
    return venvs.make(tmp_path_factory.mktemp("bare") / "venv")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a trainer of sorts."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "accelerate.py").write_text("")
    (folder / "train.py").write_text("import accelerate\n")
    return folder


def started(
    python: Path, *arguments: str, env: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    return auto.run(str(python), *arguments, env=env, cwd=cwd)


def claimed(run_dir: Path) -> bool:
    return (run_dir / "ranks" / "00000.beat").exists()


def test_a_python_without_a_harness_is_instrumented_and_sees_none_of_ours(bare, project, tmp_path):
    (project / "train.py").write_text(
        "import sys, accelerate\n"
        "print([each for each in sys.path if 'harness' in each.replace(sys.argv[1], '')])\n"
        "import psutil"  # ours has it
    )
    env = auto.environment(tmp_path / "run")
    done = auto.run(str(bare), "train.py", str(tmp_path), env=env, cwd=project, status=1)
    assert done.stdout == "[]\n"
    assert "No module named 'psutil'" in done.stderr
    assert claimed(tmp_path / "run")
    _, stages, beat = auto.recorded(tmp_path / "run")
    assert stages == ["boot", "command", "import", "command"]
    assert (beat.rank, beat.step, beat.closed_status) == (0, None, None)


@pytest.mark.parametrize("theirs", ["nothing", "another", "ours"])
def test_the_harness_that_a_trainer_imports_is_its_own(theirs, bare, project, tmp_path):
    if theirs == "another":
        (project / "harness").mkdir()
        (project / "harness" / "__init__.py").write_text("MINE = 1\n")
    if theirs == "ours":
        for name in what_emit_stands_on():
            (project / name).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / name, project / name)
    (project / "train.py").write_text(
        "import accelerate\n"
        "try:\n    import harness\n    print(harness.__file__, getattr(harness, 'MINE', None))\n"
        "except ImportError as error:\n    print(error.name)\n"
    )
    done = started(bare, "train.py", env=auto.environment(tmp_path / "run"), cwd=project)
    found = {"nothing": "harness", "another": f"{project}/harness/__init__.py 1"}
    assert done.stdout.strip() == found.get(theirs, f"{project}/harness/__init__.py None")
    assert done.stderr == ""
    assert claimed(tmp_path / "run")


@pytest.mark.parametrize("theirs", ["nothing", "ours"])
def test_a_trainer_that_emits_itself_wins(theirs, bare, project, tmp_path):
    """One state where the environment has our emit; where it is found only later, its own record."""
    folder = project if theirs == "ours" else project / "later"
    for name in what_emit_stands_on():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    (project / "train.py").write_text(
        "import sys, accelerate\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "from harness import emit\n"
        "emit.open(total_steps=3)\nemit.stage('train')\n"
        "for n in range(3): emit.step(n + 10, loss=1.0)\n"
        "recorder = next(each for each in sys.meta_path if hasattr(each, '_recorder'))._recorder\n"
        "recorder._complete  # ours, as if a step had been seen\n"
        "recorder.enter('eval')\n"
        "print(recorder.on)\n"
        "emit.close()\n"
    )
    done = started(bare, "train.py", env=auto.environment(tmp_path / "run"), cwd=project)
    assert done.stderr == ""
    rows, stages, beat = auto.recorded(tmp_path / "run")
    assert [row.step for row in rows] == [10, 11, 12]
    assert beat.total_steps == 3
    assert beat.closed_status == "finished"
    if theirs == "ours":
        assert done.stdout == "False\n"
        assert stages[-2:] == ["boot", "train"]


def test_the_users_own_sitecustomize_runs(bare, project, tmp_path):
    (project / "site").mkdir()
    (project / "site" / "sitecustomize.py").write_text("import sys; sys.theirs = __file__\n")
    code = "import sys, sitecustomize; print(sys.theirs, sitecustomize.__file__, end='')"
    env = auto.environment(tmp_path / "run", PYTHONPATH=str(project / "site"))
    assert env["PYTHONPATH"] == f"{SITE}:{project / 'site'}"
    theirs = str(project / "site" / "sitecustomize.py")
    assert started(bare, "-c", code, env=env, cwd=project).stdout == f"{theirs} {theirs}"
    started(bare, "train.py", env={**env, "PYTHONPATH": f"{env['PYTHONPATH']}:."}, cwd=project)
    assert claimed(tmp_path / "run")


def test_the_users_own_usercustomize_runs(project, tmp_path):
    python = venvs.make(tmp_path / "venv")
    settings = tmp_path / "venv" / "pyvenv.cfg"  # a user's site is for environments that see the system's
    settings.write_text(settings.read_text().replace("packages = false", "packages = true"))
    (project / "site").mkdir()
    (project / "site" / "usercustomize.py").write_text("import sys; sys.theirs = __file__\n")
    env = auto.environment(tmp_path / "run", PYTHONPATH=str(project / "site"), HOME=str(tmp_path))
    code = "import sys, accelerate; print(sys.theirs, end='')"
    done = started(python, "-c", code, env=env, cwd=project)
    assert done.stdout == str(project / "site" / "usercustomize.py")
    assert claimed(tmp_path / "run")


@pytest.mark.parametrize("fault", ["raise ValueError('oh')", "import nothing_of_that_name", "def"])
def test_an_error_in_it_is_reported_as_python_does(fault, bare, project, tmp_path):
    (project / "site").mkdir()
    (project / "site" / "sitecustomize.py").write_text(fault + "\n")
    (project / "train.py").write_text("import sys; sys.path.append('.'); import accelerate; print('on')")
    with_ours, without = (
        started(bare, "train.py", env=env, cwd=project)
        for env in (
            auto.environment(tmp_path / "run", PYTHONPATH=str(project / "site")),
            auto.environment(None, PYTHONPATH=str(project / "site")),
        )
    )
    assert with_ours.stdout == without.stdout == "on\n"
    assert with_ours.stderr == without.stderr != ""
    assert claimed(tmp_path / "run")


@pytest.mark.parametrize(
    "command",
    [
        "exec {python} train.py",
        "{python} -m train",
        "{python} -c 'import accelerate'",
        "./train.py",
        "{python} -c \"import subprocess, sys; subprocess.run([sys.executable, 'train.py'])\"",
        "PYTHONPATH=/nowhere:$PYTHONPATH {python} train.py",
    ],
)
def test_however_a_shell_script_starts_it(command, bare, project, tmp_path):
    script = project / "train.py"
    script.write_text(f"#!{bare}\nimport accelerate\n")
    script.chmod(0o755)
    (project / "go.sh").write_text(command.format(python=bare) + "\n")
    auto.run("bash", "go.sh", env=auto.environment(tmp_path / "run"), cwd=project)
    assert claimed(tmp_path / "run")


def test_a_finder_of_old_in_the_import_system_is_passed_over(bare, project, tmp_path):
    """As six 1.15 puts one there: it has no `find_spec`."""
    (project / "train.py").write_text(
        "import sys\nclass Old: find_module = None\nsys.meta_path.append(Old())\nimport accelerate\n"
    )
    assert started(bare, "train.py", env=auto.environment(tmp_path / "run"), cwd=project).stderr == ""
    assert claimed(tmp_path / "run")


def test_a_python_that_is_too_old_is_told_in_a_line(bare, project, tmp_path):
    (project / "train.py").write_text("import sys; sys.version_info = (3, 9, 18)\nimport accelerate\n")
    done = started(bare, "train.py", env=auto.environment(tmp_path / "run"), cwd=project)
    assert done.stderr == ("harness: not instrumented: Python 3.9 is older than 3.10; its log is watched\n")
    assert not claimed(tmp_path / "run")


@pytest.mark.parametrize("options", [["-I"], ["-E"], ["-S"], ["-Is"]])
def test_where_pythonpath_is_not_read_it_is_started_by_its_path(options, bare, project, tmp_path):
    env = auto.environment(tmp_path / "run")
    (project / "train.py").write_text(
        f"import sys; sys.path.insert(0, {str(project)!r}); import accelerate\n"
        "print(__name__, sys.argv, __file__, sys.path[1:2] == [sys.path[0]])\n"
    )
    plain = started(bare, *options, "train.py", "--x", env=env, cwd=project)
    assert not claimed(tmp_path / "run")
    ours = started(bare, *options, str(AUTO), "train.py", "--x", env=env, cwd=project)
    assert claimed(tmp_path / "run")
    assert ours.stdout == plain.stdout.replace(str(project / "train.py"), "train.py")
    assert ours.stderr == plain.stderr == ""


def test_a_module_is_started_by_its_name(bare, project, tmp_path):
    env = auto.environment(tmp_path / "run")
    (project / "train.py").write_text("import sys, accelerate; print(__name__, sys.argv)\n")
    done = started(bare, "-E", str(AUTO), "-m", "train", "--x", env=env, cwd=project)
    assert done.stdout == f"__main__ [{str(project / 'train.py')!r}, '--x']\n"
    assert claimed(tmp_path / "run")


@pytest.mark.parametrize("missing", ["HARNESS_RUN_DIR", "HARNESS_AUTO"])
def test_outside_a_run_nothing_is_active(missing, bare, project, tmp_path):
    env = auto.environment(tmp_path / "run")
    del env[missing]
    (project / "train.py").write_text(
        "import sys, accelerate\nprint([each for each in sys.modules if 'harness' in each])\n"
    )
    done = started(bare, "train.py", env=env, cwd=project)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not claimed(tmp_path / "run")


def test_switched_off_inside_a_run_that_has_it_on():
    around = {"PYTHONPATH": f"{SITE}:/theirs:", "HARNESS_AUTO": "on"}
    assert environment_of(around, instrument=False) == {"HARNESS_AUTO": "off", "PYTHONPATH": "/theirs:"}
    assert environment_of(around, instrument=True)["PYTHONPATH"] == f"{SITE}:/theirs:"
    assert environment_of({}, instrument=True) == {"HARNESS_AUTO": "on", "PYTHONPATH": SITE}
    assert environment_of({}, instrument=False) == {"HARNESS_AUTO": "off"}


def test_a_hook_that_fails_is_one_line_and_the_trainer_goes_on(bare, project, tmp_path):
    (project / "torch.py").write_text("")  # with nothing in it of what we hook
    (project / "train.py").write_text("import torch; print('trained')")
    done = started(bare, "train.py", env=auto.environment(tmp_path / "run"), cwd=project)
    assert done.stdout == "trained\n"
    assert done.stderr.startswith(
        "harness: instrumentation is off from here on, the run goes on (AttributeError"
    )
    assert done.stderr.count("\n") == 1
    assert auto.recorded(tmp_path / "run")[2].stage == "command"


def test_an_import_that_raises_raises_what_it_raised(bare, project, tmp_path):
    (project / "torch.py").write_text("raise ImportError('libcuda.so.1: not there')")
    with_ours, without = (
        auto.run(str(bare), "-c", "import torch", env=env, cwd=project, status=1)
        for env in (auto.environment(tmp_path / "run"), auto.environment(None))
    )
    assert with_ours.stderr.splitlines()[-1] == without.stderr.splitlines()[-1]
    assert auto.recorded(tmp_path / "run")[1] == ["boot", "command", "import", "command"]


def test_an_import_that_hangs_is_seen(bare, project, tmp_path):
    (project / "torch.py").write_text("import time; time.sleep(600)")
    env = auto.environment(tmp_path / "run")
    with subprocess.Popen([str(bare), "-c", "import torch"], env=env, cwd=project) as hanging:
        try:
            wait_for(lambda: claimed(tmp_path / "run"), what="the record")

            def stage() -> bool:
                return auto.recorded(tmp_path / "run")[2].stage == "import"

            wait_for(stage, what="the stage")
        finally:
            hanging.kill()


def test_of_two_processes_the_second_is_quiet_while_the_first_lives(bare, project, tmp_path):
    (project / "train.py").write_text(
        "import accelerate, subprocess, sys, os\n"
        "if len(sys.argv) == 1:\n"
        "    subprocess.run([sys.executable, 'train.py', 'inner'], check=True)\n"
        "    print(os.getpid())\n"
    )
    done = started(bare, "train.py", env=auto.environment(tmp_path / "run"), cwd=project)
    assert done.stderr == ""
    assert auto.recorded(tmp_path / "run")[2].pid == int(done.stdout)


def test_a_fork_and_a_spawned_worker_are_not_the_trainer(bare, project, tmp_path):
    (project / "train.py").write_text(
        "import accelerate, multiprocessing, os, sys\n"
        "def work(): import accelerate\n"
        "if __name__ == '__main__':\n"
        "    for kind in ('fork', 'spawn', 'forkserver'):\n"
        "        child = multiprocessing.get_context(kind).Process(target=work)\n"
        "        child.start(); child.join(); assert child.exitcode == 0\n"
        "    print(os.getpid())\n"
    )
    done = started(bare, "train.py", env=auto.environment(tmp_path / "run"), cwd=project)
    assert done.stderr == ""
    assert auto.recorded(tmp_path / "run")[2].pid == int(done.stdout)


@pytest.mark.parametrize(
    ("how", "status", "closed"),
    [
        ("pass", 0, "ended"),
        ("sys.exit(3)", 3, "ended"),  # never "finished": which status it is, the interpreter does not tell
        ("raise ValueError('planted')", 1, None),
        ("raise KeyboardInterrupt", -2, None),
        ("os._exit(0)", 0, None),
        ("os.kill(os.getpid(), 15)", -15, None),
        ("import threading; threading.Thread(target=time.sleep, args=(0.3,)).start()", 0, "ended"),
        ("from harness import emit; emit.open()", 0, None),  # the trainer's own from there on
    ],
)
def test_a_record_says_that_the_interpreter_came_to_its_end(how, status, closed, project, tmp_path):
    (project / "train.py").write_text(f"import accelerate, os, sys, time\n{how}\n")
    env = auto.environment(tmp_path / "run", PYTHONPATH=str(REPOSITORY))
    auto.run(sys.executable, "train.py", env=env, cwd=project, status=status)
    assert auto.recorded(tmp_path / "run")[2].closed_status == closed


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_a_rank_that_multiprocessing_starts_says_so_too(kind, project, tmp_path):
    (project / "train.py").write_text(
        "import accelerate, multiprocessing, sys\n"
        "def rank():\n"
        "    import accelerate\n"
        "    recorder = next(each for each in sys.meta_path if hasattr(each, '_recorder'))._recorder\n"
        "    recorder.wake(); recorder.claim(rank=1, world_size=2)\n"
        "    recorder._begin_training()\n"
        "if __name__ == '__main__':\n"
        f"    child = multiprocessing.get_context({kind!r}).Process(target=rank)\n"
        "    child.start(); child.join(); assert child.exitcode == 0\n"
    )
    auto.run(sys.executable, "train.py", env=auto.environment(tmp_path / "run"), cwd=project)
    _, stages, beat = auto.recorded(tmp_path / "run", 1)
    assert (stages[-1], beat.closed_status) == ("finish", "ended")


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("python train.py", "trainer"),
        ("python -u -X faulthandler -W error train.py --multiprocessing", "trainer"),
        ("python -m package.train", "trainer"),
        ("python -m torch.distributed.run train.py", "launcher"),
        ("python /venv/bin/torchrun --nproc-per-node 2 train.py", "launcher"),
        ("python /venv/bin/accelerate launch train.py", "launcher"),
        ("python -mtorch.distributed.launch train.py", "launcher"),
        ("python -m pip install torch", "launcher"),
        ("python -m pipeline.train", "trainer"),
        ("python -c 'import torch'", "trainer"),
        ("python -c from\0multiprocessing.spawn\0import --multiprocessing-fork", "helper"),
        ("python -m torch._inductor.compile_worker --workers=2", "helper"),
        ("python /site-packages/torch/_inductor/compile_worker/__main__.py", "helper"),
        ("python -I -m harness.auto train.py", "trainer"),
        ("python", "trainer"),
    ],
)
def test_the_role_of_a_process(command, role):
    assert process.role([word.replace("\0", " ") for word in command.split(" ")]) == role


def test_the_entry_says_how_it_is_used():
    done = completed([sys.executable, "-m", "harness.auto"])
    assert (done.returncode, done.stderr.split(":")[0]) == (2, "usage")
