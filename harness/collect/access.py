"""Why the kernel denies a look at a process, and which right is missing: in words a user can act on.

Not covered: taking any right.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.collect.procfs import Proc

_CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What decides about ptrace. `yama_scope` is None where the kernel has no Yama."""

    own_uid: int
    target_uid: int
    may_trace_all: bool
    yama_scope: int | None
    in_container: bool


def why_denied(rights: Rights) -> str:
    """What stands in the way, a full stop, and what would open it; ways to open it end with semicolons."""
    grants = (
        "in Docker: --cap-add SYS_PTRACE; in Kubernetes: securityContext.capabilities.add: [SYS_PTRACE], and "
        "shareProcessNamespace from another container of the pod"
    )
    in_container = f"; {grants}" if rights.in_container else ""
    if rights.own_uid == 0 and not rights.may_trace_all:
        also = "" if rights.target_uid == 0 else f"run as uid {rights.target_uid}; "
        return f"ptrace is denied: we are root, but without the capability SYS_PTRACE. {also}{grants}"
    if rights.own_uid != rights.target_uid and not rights.may_trace_all:
        return (
            f"ptrace is denied: the process belongs to uid {rights.target_uid}, we are uid {rights.own_uid}. "
            "Run as that user or as root"
        )
    if rights.yama_scope and not rights.may_trace_all:
        return (
            f"ptrace is denied: Yama scope {rights.yama_scope} lets only a process's ancestors look at it. "
            f"sudo sysctl kernel.yama.ptrace_scope=0; or run as root; or start it under `harness run`"
            f"{in_container}"
        )
    return (
        "ptrace is denied: the process is not dumpable (it changed its uid or called PR_SET_DUMPABLE), or a "
        f"seccomp filter or security module forbids it. Run as root{in_container}"
    )


def rights(proc: Proc, target_uid: int) -> Rights:
    """Our rights towards a process of this user."""
    try:
        yama = int(proc.read("sys", "kernel", "yama", "ptrace_scope"))
    except (OSError, ValueError):
        yama = None
    try:
        capabilities = int(proc.status(os.getpid())["CapEff"], 16)
    except (OSError, ValueError, KeyError):
        capabilities = 0
    return Rights(
        own_uid=os.geteuid(),
        target_uid=target_uid,
        may_trace_all=bool(capabilities >> _CAP_SYS_PTRACE & 1),
        yama_scope=yama,
        in_container=_in_container(proc),
    )


def _in_container(proc: Proc) -> bool:
    """A guess by the marks that runtimes leave; used for words only."""
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")):
        return True
    try:
        return any(mark in proc.read(1, "cgroup") for mark in (b"docker", b"kubepods", b"containerd", b"lxc"))
    except OSError:
        return False
