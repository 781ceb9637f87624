"""Who a run is: its name, its id on all nodes, and what is written down about where it came from.

Everything that starts a program has a deadline, and what could not be found out is said with its reason.
Never recorded: secrets. Of the environment only a fixed list of names is kept; of the command line and of
configuration files, what looks like a secret is struck out (`harness.redaction`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import re
import secrets
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.redaction import strike_out_text
from harness.rundir import clean_name, host_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GIT_DEADLINE_SECONDS = 5.0
_VERSIONS_DEADLINE_SECONDS = 20.0
_CONFIG_ENDINGS = (".yaml", ".yml", ".toml", ".json")
_SCRIPT_ENDINGS = (".py", ".sh", ".bash")
_CONFIG_FILES, _CONFIG_BYTES = 4, 256 << 10
_ENVIRONMENT = (
    "CONDA_DEFAULT_ENV",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_OFFLINE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "MKL_NUM_THREADS",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "NODE_RANK",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RANK",
    "SLURM_JOB_ID",
    "SLURM_NNODES",
    "SLURM_NODEID",
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
    "TOKENIZERS_PARALLELISM",
    "TORCHELASTIC_RUN_ID",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCH_NCCL_BLOCKING_WAIT",
    "VIRTUAL_ENV",
    "WORLD_SIZE",
)
_PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "accelerate",
    "lightning",
    "deepspeed",
    "numpy",
    "pyarrow",
)
# Asks the command's own interpreter, which need not be ours. Nothing is imported: torch takes seconds.
_ASK = """
import sys
sys.path[:] = filter(None, sys.path)  # a json.py in the command's folder is none of ours
import json, platform
from importlib import metadata
found = {}
for name in %r:
    try: found[name] = metadata.version(name)
    except metadata.PackageNotFoundError: pass
print(json.dumps({"python": platform.python_version(), "packages": found}))
"""


def name_of(command: Sequence[str]) -> str:
    """What a user would call this run: its configuration's stem, else its script's, module's or program's."""
    plain = [each for each in command[1:] if not each.startswith("-")]
    for endings in (_CONFIG_ENDINGS, _SCRIPT_ENDINGS):
        for each in plain:
            if each.endswith(endings):
                return clean_name(Path(each).stem) or "run"
    for before, each in itertools.pairwise(command):
        if before == "-m":
            return clean_name(each.removesuffix(".__main__").rpartition(".")[2]) or "run"
    return clean_name(Path(command[0]).stem) or "run"


def shared_run_id(environment: Mapping[str, str], command: Sequence[str] = ()) -> str | None:
    """The id that all nodes of one job agree on, from torchrun or Slurm; None without either.

    torchrun tells its ranks TORCHELASTIC_RUN_ID; to us, who start torchrun, its `--rdzv-id` tells the same.
    A job that Slurm requeued runs again under its old id: the restart count tells the two apart.
    """
    elastic = environment.get("TORCHELASTIC_RUN_ID") or _rendezvous_id(command)
    if elastic and elastic != "none":  # torchrun's default when nobody named the job
        return clean_name(elastic) or None
    job = environment.get("SLURM_JOB_ID")
    if not job:
        return None
    step, restart = environment.get("SLURM_STEP_ID"), environment.get("SLURM_RESTART_COUNT", "0")
    return clean_name(
        f"slurm-{job}" + (f".{step}" if step else "") + (f"-r{restart}" if restart != "0" else "")
    )


def _rendezvous_id(command: Sequence[str]) -> str | None:
    """What a torchrun on the command line is told with --rdzv-id."""
    words = list(command)
    launcher = ("torchrun", "torch.distributed.run")
    at = next((index for index, word in enumerate(words) if word.rpartition("/")[2] in launcher), None)
    for word, after in zip(words[at:], [*words[at:][1:], ""], strict=True) if at is not None else ():
        option, equals, value = word.partition("=")
        if option in ("--rdzv-id", "--rdzv_id"):
            return value if equals else after
    return None


def new_run_id(directory_name: str) -> str:
    """An id for a run of one node: legible, and unlike that of a run begun elsewhere in the same minute."""
    return f"{clean_name(directory_name) or host_name()}-{secrets.token_hex(2)}"


def configurations_of(command: Sequence[str], directory: Path) -> dict[str, str]:
    """The configuration files that the command line names, by their names, without secrets."""
    found: dict[str, str] = {}
    for each in command[1:]:
        if not each.endswith(_CONFIG_ENDINGS) or len(found) == _CONFIG_FILES:
            continue
        path = directory / each
        with contextlib.suppress(OSError, ValueError):
            if path.is_file() and path.stat().st_size <= _CONFIG_BYTES:
                name = clean_name(path.name) or "configuration"
                found[name] = strike_out_text(path.read_text(encoding="utf-8", errors="replace"))
    return found


def environment_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables worth keeping, by a fixed list: never secrets."""
    return {name: environment[name] for name in _ENVIRONMENT if name in environment}


def git_state(directory: Path) -> dict[str, Any]:
    """Commit and dirtiness of the tree that the command runs in; {"reason": …} where there is none."""
    git = shutil.which("git")
    if git is None:
        return {"reason": "git is not installed"}
    end = time.monotonic() + _GIT_DEADLINE_SECONDS
    answers = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                [git, "--no-optional-locks", "-C", str(directory), *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=max(0.1, end - time.monotonic()),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return {"reason": f"git did not answer within {_GIT_DEADLINE_SECONDS:.0f} s"}
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            return {
                "reason": lines[0].removeprefix("fatal: ") if lines else f"git: exit status {done.returncode}"
            }
        answers.append(done.stdout.decode(errors="replace").strip())
    return {"commit": answers[0], "dirty": bool(answers[1])}


def versions_of(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> dict[str, Any]:
    """Versions of harness and of what the command's interpreter has, found without importing any of it."""
    try:
        ours = metadata.version("training-harness")
    except metadata.PackageNotFoundError:
        ours = "not installed"
    found: dict[str, Any] = {"harness": ours, "harness_python": platform.python_version()}
    interpreter = interpreter_of(command, environment)
    if interpreter is None:
        return {**found, "command": {"reason": f"{command[0]} is no Python program that can be told as such"}}
    try:
        done = subprocess.run(
            [interpreter, "-c", _ASK % (_PACKAGES,)],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={key: value for key, value in environment.items() if not key.startswith("HARNESS_")},
            cwd=directory,
            timeout=_VERSIONS_DEADLINE_SECONDS,
            check=True,
        )
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {**found, "command": {"reason": f"{interpreter} did not tell: {type(error).__name__}"}}
    return {**found, "command": {"interpreter": interpreter, **answer}}


def interpreter_of(command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The Python that runs `command`, as far as its name or its #! line tells."""
    program = shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        return None
    if re.fullmatch(r"python[0-9.]*", Path(program).name):
        return program
    try:
        with Path(program).open("rb") as file:
            first = file.readline(512).decode(errors="replace")
    except OSError:
        return None
    words = first[2:].split() if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    if words and re.fullmatch(r"python[0-9.]*", Path(words[0]).name):
        return shutil.which(words[0], path=environment.get("PATH"))
    return None
