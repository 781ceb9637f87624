"""Stage `environment`: versions, driver, disk, shared memory, limits, caches; torch for CUDA alone.

What is not installed is told here, all of it at once: on a machine without a network each is a wheel to
bring. Not here: whether what is installed works (`imports`).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from nsa.cache import cache_root
from nsa.report import say
from nsa.smoke.stage import SmokeError, measured

if TYPE_CHECKING:
    from nsa.smoke.stage import Task

# By the name that pip knows. `datasets` is needed for what comes from the hub alone.
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "pydantic", "datasets", "pyyaml")
_MODULES = {"pyyaml": "yaml"}
_OPTIONAL = ("datasets",)
_DRIVER = Path("/proc/driver/nvidia/version")


def run(task: Task) -> None:
    """Print what is there; SmokeError for what is missing."""
    say(f"python {platform.python_version()} · {platform.platform()}")
    say(" · ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    if _DRIVER.exists():
        say(_DRIVER.read_text().splitlines()[0])
    missing = [name for name in _PACKAGES if name not in _OPTIONAL and not _is_there(name)]
    if task.device == "cuda" and "torch" not in missing:
        _check_cuda()
    if missing:
        _refuse(missing)
    for name, folder in _folders(task).items():
        _check_writable(name, folder)
    shm = Path("/dev/shm")  # noqa: S108 -- what gloo, NCCL and DataLoader workers use
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    measured(
        disk_free_gb=shutil.disk_usage(_existing(task.out)).free / 1e9,
        shared_memory_mb=shutil.disk_usage(shm).free / 1e6 if shm.is_dir() else 0.0,
        open_files=1 << 20 if files == resource.RLIM_INFINITY else files,
        memory_free_gb=_memory_available_bytes() / 1e9,
        cores=len(os.sched_getaffinity(0)),
        py_spy=_py_spy(),
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(_MODULES.get(name, name)) is not None
    except (ImportError, ValueError):
        return False


def _py_spy() -> bool:
    """Where the harness looks for it."""
    return os.access(Path(sys.executable).parent / "py-spy", os.X_OK) or shutil.which("py-spy") is not None


def _refuse(missing: list[str]) -> None:
    if "torch" in missing:
        remedy = "Training needs the extra: pip install 'training-harness[train]'"
    else:
        wanted = " ".join([*missing, *([] if _py_spy() else ["py-spy"])])
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        remedy = (
            f"pip install {wanted}. Without a network, bring the wheels:"
            f" pip download -d wheels --only-binary :all: --python-version {python} {wanted}"
        )
    raise SmokeError(f"not installed for {sys.executable}: {', '.join(missing)}. {remedy}")


def _check_cuda() -> None:
    """One line where there is none: what torch sees, and where to go instead."""
    elsewhere = "Run `tox -e cpu-smoke` (configs/smoke/cpu.yaml) on this machine, or mend its driver"
    try:
        import torch
    except Exception as error:  # noqa: BLE001 -- a broken library raises anything
        raise SmokeError(
            f"torch cannot be imported ({error}), so no CUDA device is seen. {elsewhere}"
        ) from None
    if not torch.cuda.is_available():
        built = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        driver = "a driver is loaded" if _DRIVER.exists() else "no NVIDIA driver is loaded"
        raise SmokeError(
            f"no CUDA device: torch {torch.__version__} was built {built} and sees"
            f" {torch.cuda.device_count()} devices; {driver}. {elsewhere}"
        )
    count = torch.cuda.device_count()
    free, total = torch.cuda.mem_get_info()
    say(f"{count} of {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
    measured(gpus=count, gpu=torch.cuda.get_device_name(0), gpu_free_gb=free / 1e9, gpu_total_gb=total / 1e9)


def _folders(task: Task) -> dict[str, Path]:
    hub = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")  # noqa: PTH111
    return {"the run's folder": task.out, "HF_HOME": Path(hub), "the trainer's cache": cache_root(None)}


def _existing(path: Path) -> Path:
    """The nearest thing that is there: a folder, if all is well."""
    return next((each for each in (path, *path.absolute().parents) if each.exists()), Path("/"))


def _check_writable(name: str, path: Path) -> None:
    """By writing: rights alone do not tell of a full or a read-only disk."""
    folder = _existing(path)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".smoke-") as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        raise SmokeError(
            f"{name}: {path} cannot be written: {error.strerror} (in {folder}). Mend its rights, make room,"
            f" or {'set HF_HOME' if name == 'HF_HOME' else 'choose another folder'}"
        ) from None


def _memory_available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
