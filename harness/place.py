"""Makes a rank's record file, once, at `emit.open`, and opens two doors for evidence about this process.

Covers where the record stands, whose it is, and the two doors: a traceback on a signal, a tracer under
Yama. Also how a line of events is appended. The traps it is built around: a mapped page that the file
system cannot back is SIGBUS, which nothing catches, so blocks are allocated before mapping and never given
back, each record is a new inode, and where a mapping may fail later (network file systems, copy on write)
or the disk is full, the record stands in memory, with a link to it in the run directory. Not here: what is
written into it (`harness.record`). Standard library only.
"""

# pathlib and contextlib would cost a trainer more than all of this:
# ruff: noqa: PTH102, PTH104, PTH108, PTH112, PTH116, PTH120, PTH211, SIM105

import mmap
import os
import stat
import sys
import time

from harness import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.record import Record

MEMORY = "/dev/shm"  # noqa: S108 (the point is that it is memory)
MOUNTS = "/proc/self/mountinfo"
YAMA = "/proc/sys/kernel/yama/ptrace_scope"
# A store into an allocated, mapped page of these needs neither a peer nor new blocks.
_STEADY = frozenset(("ext2", "ext3", "ext4", "xfs", "tmpfs", "overlay", "f2fs"))
_PR_SET_PTRACER = 0x59616D61
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FRESH = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_traceback: int | None = None  # the file that the handler writes to


class OwnedError(Exception):
    """The record belongs to a live process that has not closed it."""


def create(
    run_dir: str,
    rank: int,
    *,
    run_id: str,
    attempt: int,
    begin: "Callable[[mmap.mmap], Record]",
    unasked: bool = False,
    yielding: bool = False,
) -> "Record":
    """Make this process's record of `rank` and return what `begin` made of its map; OSError, OwnedError.

    The record gets its name when `begin` has written its first blocks: a reader never meets an empty one.
    A provisional record of a live process is replaced, unless `yielding`. `unasked` is for a trainer that
    never asked for any of this: no signal of its is touched.
    """
    if not os.path.isdir(run_dir):
        raise FileNotFoundError(f"HARNESS_RUN_DIR is {run_dir}, and there is no such directory")
    ranks = f"{run_dir}/ranks"
    _make_folder(ranks)
    path = wire.beat_path(run_dir, rank)
    before = os.path.realpath(path)
    _check_owner(before, yielding=yielding)
    _allow_tracing()
    signal = 0 if unasked else _offer_traceback(wire.traceback_path(run_dir, rank))
    header = _header(rank, run_id, attempt, signal)
    name = f"{rank:05d}.{os.getpid()}"
    folder = f"{MEMORY}/harness-{os.getuid()}"
    try:
        if not _is_steady(ranks):
            raise OSError("its file system may lose a mapping")
        record = _map_new(f"{ranks}/.{name}", header, begin, publish_as=path)
    except OSError as why:
        target = (
            f"{folder}/{''.join(c if c.isalnum() or c in '-_' else '-' for c in run_id[:80])}.{name}.beat"
        )
        try:
            _make_private(folder)
            record = _map_new(f"{target}.new", header, begin, publish_as=target)
            _link(target, path, temporary=f"{ranks}/.{name}.link")
        except OSError as also:
            raise OSError(f"no record in {ranks} ({why}), nor in memory ({also})") from None
        if before == target:
            return record
    if os.path.dirname(before) == folder and before != path:
        _remove(before)  # the last attempt's, which nothing names any more
    return record


def _map_new(
    temporary: str, header: bytes, begin: "Callable[[mmap.mmap], Record]", *, publish_as: str
) -> "Record":
    """A new file of all its blocks, with header and first blocks, under its name only when it is complete."""
    _remove(temporary)
    descriptor = os.open(temporary, _FRESH, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, wire.SIZE)
        os.pwrite(descriptor, header, 0)
        record = begin(mmap.mmap(descriptor, wire.SIZE))
        os.rename(temporary, publish_as)
    except BaseException:
        _remove(temporary)
        raise
    finally:
        os.close(descriptor)
    return record


def _link(target: str, path: str, *, temporary: str) -> None:
    """Make `path` a link to `target`, in the place of what was there; where it cannot be, remove `target`."""
    try:
        _remove(temporary)
        os.symlink(target, temporary)
        os.rename(temporary, path)
    except OSError:
        _remove(temporary)
        _remove(target)
        raise


def _header(rank: int, run_id: str, attempt: int, signal: int) -> bytes:
    pid = os.getpid()
    header = wire.HEADER.pack(
        wire.MAGIC,
        wire.VERSION,
        wire.SIZE,
        rank,
        pid,
        start_time_ticks(pid) or 0,
        _text("/proc/sys/kernel/random/boot_id").strip().encode(),
        wire.pack_text(run_id, 63),
        attempt,
        signal,
        time.time(),
        time.monotonic(),
        not is_ordered(),
    )
    return header + wire.header_check(header)


def _check_owner(path: str, *, yielding: bool) -> None:
    """OwnedError where another live process writes the record at `path` and has not closed it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        head = os.pread(descriptor, wire.HEAD_BYTES, 0)
    finally:
        os.close(descriptor)
    if len(head) < wire.HEAD_BYTES or wire.PROLOGUE.unpack_from(head) != (
        wire.MAGIC,
        wire.VERSION,
        wire.SIZE,
    ):
        return
    _, _, _, rank, pid, ticks, boot_id, *_ = wire.HEADER.unpack_from(head)
    if (
        pid == os.getpid()
        or boot_id.strip(b"\0") != _text("/proc/sys/kernel/random/boot_id").strip().encode()
    ):
        return
    if start_time_ticks(pid) != ticks:
        return
    facts = [wire.unseal(wire.FACTS, head, wire.FACTS.at(number)) for number in range(wire.FACTS.count)]
    newest = max(filter(None, facts), default=None)
    free = wire.IS_CLOSED if yielding else wire.IS_CLOSED | wire.IS_PROVISIONAL
    if newest is None or not int(newest[1][0]) & free:
        raise OwnedError(f"the record of rank {rank} belongs to process {pid}, which is alive")


def is_ordered() -> bool:
    """Whether this machine's stores become visible in the order of the program."""
    return os.uname().machine in wire.ORDERED


def start_time_ticks(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None if there is no such process (a zombie is none)."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in "ZX" else None


def _is_steady(folder: str) -> bool:
    """Whether a mapped file in `folder` is safe to store into, by its file system's type; unknown is not."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in _text(MOUNTS).splitlines():
        fields = line.split(" ")
        if len(fields) > 6 and fields[2] == wanted:
            found = line.partition(" - ")[2].split(" ")[0]
    return found in _STEADY


def _make_private(folder: str) -> None:
    """`folder`, ours alone; OSError where somebody else has put something in its place."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise OSError(f"{folder} is not a private folder of this user") from None


def _offer_traceback(path: str) -> int:
    """Write all stacks to `path` on SIGUSR1, if that signal is free; return the signal, or 0."""
    global _traceback
    try:
        import _signal  # type: ignore[import-not-found]  # half of `signal`: the other half costs an enum
        import faulthandler

        number = int(_signal.SIGUSR1)
        # From the kernel, which also knows handlers that were not set through Python.
        status = dict(
            line.split(":\t", 1) for line in _text("/proc/self/status").splitlines() if ":\t" in line
        )
        taken = (int(status["SigCgt"], 16) | int(status["SigIgn"], 16)) >> (number - 1) & 1
        if (taken and _traceback is None) or _signal.getsignal(number) != _signal.SIG_DFL:
            return 0
        descriptor = os.open(path, _APPEND, 0o600)  # stays open: the handler writes to it
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return 0
        faulthandler.register(number, file=descriptor, all_threads=True, chain=False)
    except Exception:  # noqa: BLE001 (a door for evidence; a training does without)
        return 0
    if _traceback is not None:
        os.close(_traceback)
    _traceback = descriptor
    return number


def _allow_tracing() -> None:
    """Under Yama's scope 1 let py-spy attach, which the harness starts as our sibling."""
    if _text(YAMA).strip() != "1":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    except Exception:  # noqa: BLE001 (as above)
        return


def append_line(folder: str, name: str, line: str) -> None:
    """Append a line to a file of this process's own; lost where it cannot be written."""
    try:
        _make_folder(folder)
        descriptor = os.open(f"{folder}/{name}", _APPEND, 0o600)
    except OSError:
        return
    try:
        data = line.encode("utf-8", "replace") + b"\n"
        if 0 < os.write(descriptor, data) < len(data):  # the disk is full: at least keep the next line apart
            os.write(descriptor, b"\n")
    except OSError:
        pass
    finally:
        os.close(descriptor)


def is_worker() -> bool:
    """Whether this is a child of multiprocessing, running or being prepared (asked without importing it)."""
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    return process.parent_process() is not None or hasattr(process.current_process(), "_inheriting")


def _text(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(descriptor, 65536):
                chunks.append(chunk)
        finally:
            os.close(descriptor)
        return b"".join(chunks).decode("utf-8", "replace")
    except OSError:
        return ""


def _make_folder(path: str) -> None:
    """`path`, unless the folder around it is gone: a run directory that was deleted stays deleted."""
    try:
        os.mkdir(path)
    except FileExistsError:
        pass


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
