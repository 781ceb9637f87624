"""Capabilities that a test may need, and what is missing here.

A missing capability skips a test with its reason; CI names, in NSA_EXPECTED_CAPABILITIES, those that it
expects, and there a missing one fails instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

_MODULES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "tokenizers",
    "pyarrow",
    "pydantic",
    "yaml",
    "tensorboard",
    "numpy",
    "filelock",
    "fsspec",
    "check_jsonschema",
    "grafana_foundation_sdk",
    "lightning",
    "trl",
)
# Not of the machine but of the suite: what would be the same on every Python is tried in the environment that
# has the trainer's packages, and not in the others.
ONCE = "once"
# Test modules of which nothing runs without one of _MODULES.
REQUIRING: set[str] = set()

_PROGRAMS = {
    "alertmanager": "prometheus-alertmanager",
    "amtool": "amtool",
    "chromium": "chromium",
    "g++": "g++",
    "git": "git",
    "prometheus": "prometheus",
    "promtool": "promtool",
    "py-spy": "py-spy",
    "ssh": "ssh",
    "tmux": "tmux",
}

_TEMPLATE = Path("/usr/share/prometheus/alertmanager/default.tmpl")


@cache
def missing(capability: str) -> str | None:
    """Return why `capability` is missing on this machine, or None when it is there."""
    if capability == ONCE:
        found = importlib.util.find_spec("torch")
        return None if found else "nothing here depends on the Python: where torch is installed it is tried"
    if capability in _MODULES:
        return None if importlib.util.find_spec(capability) else f"{capability} is not installed"
    if capability in _PROGRAMS:
        beside = Path(sys.executable).parent / _PROGRAMS[capability]
        found = beside.exists() or shutil.which(_PROGRAMS[capability])
        if found and capability == "alertmanager" and not _TEMPLATE.exists():
            return f"Debian's Alertmanager does not start without {_TEMPLATE}"
        return None if found else f"no program {_PROGRAMS[capability]} on PATH"
    if capability == "root":
        return None if os.geteuid() == 0 else "not root"
    if capability == "tmpfs":
        return _cannot_mount()
    if capability == "cpu-cgroup":
        return _cannot_limit_cpu()
    if capability == "cuda":
        if missing("torch"):
            return missing("torch")
        import torch

        return None if torch.cuda.is_available() else "torch sees no CUDA device"
    if capability == "nvidia":
        from harness.collect import gpu
        from harness.evidence import Missing

        found = gpu.read_gpus(20.0)
        return found.detail if isinstance(found, Missing) else None if found.value else "NVML shows no GPU"
    raise AssertionError(f"unknown capability {capability!r}: add it to tests/support/needs.py")


def _cannot_mount() -> str | None:
    """Whether a private mount namespace with a small tmpfs can be made (root, or user namespaces)."""
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"],
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot mount a tmpfs: {error}"
    return (
        None
        if done.returncode == 0
        else f"cannot mount a tmpfs: {done.stderr.decode(errors='replace').strip()}"
    )


def _cannot_limit_cpu() -> str | None:
    """Whether a control group with a limit on CPU can be made (version 1 or 2)."""
    first = Path("/sys/fs/cgroup/cpu")
    root = first if first.is_dir() else Path("/sys/fs/cgroup")
    folder = root / f"probe-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        return f"cannot make a control group: {error}"
    try:
        limit = folder / ("cpu.cfs_quota_us" if first.is_dir() else "cpu.max")
        return None if limit.exists() else "no CPU controller in the control group"
    finally:
        folder.rmdir()


def expected() -> frozenset[str]:
    """The capabilities that this run promises to have."""
    return frozenset(filter(None, os.environ.get("NSA_EXPECTED_CAPABILITIES", "").split(",")))


def check(*capabilities: str) -> str | None:
    """Return why a test cannot run, or None; fails where the missing capability was expected."""
    for capability in capabilities:
        reason = missing(capability)
        if reason is None:
            continue
        if capability in expected():
            pytest.fail(
                f"{capability} was expected here (NSA_EXPECTED_CAPABILITIES) but: {reason}", pytrace=False
            )
        return f"needs {capability}: {reason}"
    return None


def is_base(item: pytest.Item) -> bool:
    """Whether a test runs where the harness alone is installed."""
    module = getattr(item, "module", None)
    if module is not None and module.__name__ in REQUIRING:
        return False
    return not any(name in (*_MODULES, ONCE) for marker in item.iter_markers("needs") for name in marker.args)


def require(module: str) -> ModuleType:
    """Import `module` for a test module, or skip all of it with the reason."""
    REQUIRING.add(sys._getframe(1).f_globals["__name__"])
    reason = check(module)
    if reason:
        pytest.skip(reason, allow_module_level=True)
    return importlib.import_module(module)
