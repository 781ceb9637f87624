"""What one thread waits for: from its Python frames, and from what it asked of the kernel.

The library's frame names the wait (`harness.rules.signatures`); the system call confirms it, or speaks alone
where the user's line called C directly.

Not covered: who else has a part in it (`edges`), what it means (families).
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.rules import lockfiles, runs
from harness.rules.signatures import SLEEPS, signature_of

if TYPE_CHECKING:
    from harness.evidence import Descriptor, Frame, Socket, Syscall
    from harness.rules.signatures import Kind
    from harness.rules.source import Sources
    from harness.rules.threads import ThreadView

# A thread that uses this much of a CPU works, whatever its frames wait for.
IDLE_CORES = 0.2

_LOOKS_SHARE = 0.01

_FUTEX_OPERATION = 0x7F
_FUTEX_SHARED = 0x109
# A Python lock is a semaphore: FUTEX_WAIT_BITSET | PRIVATE | CLOCK_REALTIME.
_FUTEX_LOCK = 0x189
_SLEEP_CALL = re.compile(r"\bsleep\(")
_POLLS = frozenset({"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"})
_READS = frozenset({"read", "readv", "pread64", "recvfrom", "recvmsg"})
_WRITES = frozenset({"write", "writev", "sendto", "sendmsg", "sendfile"})
_ASKS_CHILD = re.compile(r"\.poll\(\) is None|\bnot \w+(\.\w+)*\.poll\(\)|\bpid_exists\(")
# Lines of another program's output; who asks somebody something reads one line.
_GOES_OVER_STDIN = re.compile(
    r"\bin (sys\.)?stdin\b|stdin(\.buffer)?\.(read|readlines|readinto)\(|\(sys\.stdin\b"
)
_ASKS_WORKER = re.compile(r"\.is_alive\(\)|\.exitcode is None")
_SETLKW = frozenset({7, 38})  # F_SETLKW, F_OFD_SETLKW


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a thread waits for. `frame` is the library's that names it, `user` the one that called it."""

    kind: Kind
    thread: ThreadView
    user: Frame | None
    frame: Frame | None = None
    descriptor: Descriptor | None = None
    socket: Socket | None = None
    on: str = ""

    @property
    def object_address(self) -> int:
        """Where the object lives that is waited on: `self` of the library's frame; 0 if that was not seen."""
        if self.frame is None or not self.thread.process.has_trusted_locals:
            return 0
        return next((local.address for local in self.frame.locals if local.name == "self"), 0)


def wait_of(thread: ThreadView, sources: Sources) -> Wait:
    """What this thread waits for, or `busy` where it works."""
    user = thread.user_frame
    if thread.state in ("T", "t"):
        return Wait(kind="stopped", thread=thread, user=user, on=_kernel_words(thread))
    if not thread.frames:
        return Wait(kind="unseen", thread=thread, user=None, on=_kernel_words(thread))
    if thread.state == "D" and len(thread.samples) > 1 and _always(thread, "D"):
        return Wait(kind="disk", thread=thread, user=user, on=_kernel_words(thread))
    working = is_busy(thread)
    signature, frame = signature_of(thread, user)
    if signature is not None and frame is not None and signature.kind in ("exit", "compile"):
        return Wait(kind=signature.kind, thread=thread, user=user, frame=frame)
    if working:
        return Wait(kind="busy", thread=thread, user=user)
    if _takes_its_lock(thread):
        return Wait(kind="lock", thread=thread, user=user, frame=thread.python_frames[0])
    if signature is not None:
        return _described(signature.kind, thread, user, frame)
    return _by_syscall(thread, user, sources)


def _takes_its_lock(thread: ThreadView) -> bool:
    """Whether it waits for the lock within a queue, an event or a condition: not yet for what is in it."""
    inner = thread.python_frames[0] if thread.python_frames else None
    if inner is None or thread.syscall is None or thread.syscall.name != "futex":
        return False
    if inner.file.endswith("/threading.py"):
        return inner.function in ("__enter__", "_acquire_restore")
    # Since Python 3.13 a handler takes its lock without a frame of its own.
    return inner.file.endswith("/logging/__init__.py") and inner.function == "handle"


def is_busy(thread: ThreadView) -> bool:
    """Whether it used a CPU while we looked, or tried to."""
    cores = thread.cpu_cores
    seen = [sample.state for sample in thread.samples if sample is not None]
    # On a crowded machine a thread that wants to run gets little of a CPU; one that only wakes up to look at
    # something stands in line there as well, and then hardly runs.
    _, ran, watched = runs.counted(thread)
    only_looks = watched > 0 and ran < _LOOKS_SHARE * watched
    often = bool(seen) and seen.count("R") * 2 > len(seen) and not only_looks
    ready = often or runs.wants_cpu(thread)
    if cores is not None and cores >= IDLE_CORES:
        return True
    # One that asks for the GIL wakes up every few milliseconds, and then stands in line for a CPU as well.
    return ready and not any(each.holds_gil for each in thread.process.threads if each is not thread)


def _by_syscall(thread: ThreadView, user: Frame | None, sources: Sources) -> Wait:
    call = thread.syscall
    statement = sources.statement(user) if user else ""
    if call is None:
        # Where system calls may not be read, or it stood in line for a CPU in each sample, a line that calls
        # sleep says it as well.
        innermost = next(iter(thread.python_frames), None)
        if innermost is not None and _SLEEP_CALL.search(sources.statement(innermost)):
            return Wait(kind="sleep", thread=thread, user=user, on=statement)
        return Wait(kind="native", thread=thread, user=user, on=_kernel_words(thread))
    if call.name == "futex":
        return _described(_futex(call, user, sources, thread), thread, user, None)
    if call.name in SLEEPS or (call.name in ("select", "pselect6") and not any(call.arguments[:4])):
        return _sleep(thread, user, sources, statement)
    if call.name in ("wait4", "waitid"):
        return Wait(kind="child", thread=thread, user=user, on=statement)
    if call.name == "vfork":
        return Wait(kind="disk", thread=thread, user=user, on=_kernel_words(thread))
    if call.name == "flock" or (call.name == "fcntl" and call.arguments[1] in _SETLKW):
        return _described("file-lock", thread, user, None)
    if call.name == "connect":
        return _described("socket-connect", thread, user, None)
    if call.name in ("accept", "accept4"):
        return _described("serve", thread, user, None)
    if call.name in ("open", "openat") and any("partner" in each for each in thread.wchans):
        flags = call.arguments[2] if call.name == "openat" else call.arguments[1]
        return Wait(kind="pipe-write" if flags & 3 else "pipe-read", thread=thread, user=user, on="a FIFO")
    if call.name in _READS | _WRITES:
        return _described(_io_kind(thread, call, statement), thread, user, None)
    if call.name in _POLLS:
        return _described(_poll_kind(thread, statement), thread, user, None)
    if call.name in ("pause", "rt_sigsuspend", "rt_sigtimedwait"):
        return Wait(kind="signal", thread=thread, user=user, on="a signal")
    return Wait(kind="native", thread=thread, user=user, on=_kernel_words(thread))


def _sleep(thread: ThreadView, user: Frame | None, sources: Sources, statement: str) -> Wait:
    call = thread.syscall
    in_native = call is not None and lockfiles.is_native_sleep(call)
    file = lockfiles.contended(thread)
    if (in_native and file is not None) or lockfiles.polled(thread, user, sources):
        return Wait(kind="file-lock", thread=thread, user=user, descriptor=file)
    if (polled := _polled(thread, user, sources)) is not None:
        return Wait(kind=polled, thread=thread, user=user, on=statement)
    if in_native and user is not None and user is thread.python_frames[0] and "sleep" not in statement:
        return Wait(
            kind="native", thread=thread, user=user, on=f"a sleep in native code, {_kernel_words(thread)}"
        )
    return Wait(kind="sleep", thread=thread, user=user, on=statement)


def _polled(thread: ThreadView, user: Frame | None, sources: Sources) -> Kind | None:
    """What a loop that sleeps asks for, where its condition says that: a subprocess, or a worker."""
    loop = next(iter(sources.loops(user)), None) if user is not None else None
    if not isinstance(loop, ast.While):
        return None
    test = ast.unparse(loop.test)
    if _ASKS_CHILD.search(test) and any(not each.by_multiprocessing for each in thread.process.children):
        return "child"
    if _ASKS_WORKER.search(test) and any(each.by_multiprocessing for each in thread.process.children):
        return "process-join"
    return None


def _futex(call: Syscall, user: Frame | None, sources: Sources, thread: ThreadView) -> Kind:
    operation = call.arguments[1] if len(call.arguments) > 1 else 0
    if operation == _FUTEX_SHARED:
        return "process-lock"
    # A thread that waits for the GIL does so with a timeout, and somebody else owns it in every dump.
    if any(other.holds_gil for other in thread.process.threads if other is not thread):
        return "gil"
    innermost = thread.python_frames[0] if thread.python_frames else None
    wants = any(each is not None and sources.asked(each) is not None for each in (innermost, user))
    wants = wants or any("PyThread_acquire_lock" in each.function for each in thread.native_frames)
    timed = bool(call.arguments[3]) if len(call.arguments) > 3 else False
    # Without its source, a direct call that waits as Python's locks do is taken for one.
    unknown = user is not None and user is innermost and sources.of(user) is None and not timed
    return "lock" if wants or (operation == _FUTEX_LOCK and unknown) else "native-futex"


def _io_kind(thread: ThreadView, call: Syscall, statement: str) -> Kind:
    descriptor = _descriptor(thread, call.arguments[0])
    reads = call.name in _READS
    if descriptor is None:
        return "native"
    if descriptor.kind == "socket":
        return "socket-read" if reads else "socket-write"
    fed = descriptor.kind in ("pipe", "fifo") and _GOES_OVER_STDIN.search(statement)
    if reads and (descriptor.number == 0 or descriptor.kind == "tty") and not fed:
        return "stdin"
    if descriptor.kind in ("pipe", "fifo"):
        return "pipe-read" if reads else "pipe-write"
    return "native"


def _poll_kind(thread: ThreadView, statement: str) -> Kind:
    """A poll tells no descriptor: the statement has to say what it is for, and the sockets confirm it."""
    if re.search(r"\binput\(|stdin", statement):
        return "stdin"
    if re.search(r"\.accept\(|serve_forever", statement):
        return "serve"
    sockets = thread.process.process.sockets
    tcp = [each for each in sockets.value if each.family != "unix"] if isinstance(sockets, Reading) else []
    if not tcp:
        return "native"
    if any(each.state == "SYN_SENT" for each in tcp):
        return "socket-connect"
    if any(each.family.startswith("udp") and each.peer.endswith(":53") for each in tcp):
        return "dns"
    if re.search(r"\.(send|sendall|sendfile)\(", statement):
        return "socket-write"
    if re.search(r"\.(recv\w*|read\w*|makefile)\(", statement):
        return "socket-read"
    if re.search(r"\b(select|poll)\(", statement):
        # A selector tells no descriptor either. One that listens as well waits for whoever comes.
        return "serve" if any(each.state == "LISTEN" for each in tcp) else "socket-read"
    return "native"


def _described(kind: Kind, thread: ThreadView, user: Frame | None, frame: Frame | None) -> Wait:
    """With the descriptor and socket that the system call names, or the only one it can be."""
    call = thread.syscall
    descriptor = None
    if (
        call is not None
        and call.arguments
        and call.name in _READS | _WRITES | {"connect", "accept", "flock", "fcntl"}
    ):
        descriptor = _descriptor(thread, call.arguments[0])
    socket = _socket(thread, descriptor)
    if socket is None and kind in ("socket-read", "socket-write", "socket-connect"):
        state = "SYN_SENT" if kind == "socket-connect" else "ESTABLISHED"
        sockets = thread.process.process.sockets
        fitting = (
            [each for each in sockets.value if each.family.startswith("tcp") and each.state == state]
            if isinstance(sockets, Reading)
            else []
        )
        socket = fitting[0] if len({each.peer for each in fitting}) == 1 else None
    if socket is not None and socket.family.startswith("tcp") and kind in ("pipe-read", "pipe-write"):
        kind = "socket-read" if kind == "pipe-read" else "socket-write"  # multiprocessing's Client, to a host
    return Wait(kind=kind, thread=thread, user=user, frame=frame, descriptor=descriptor, socket=socket)


def _descriptor(thread: ThreadView, number: int) -> Descriptor | None:
    found = thread.process.process.descriptors
    if not isinstance(found, Reading):
        return None
    return next((each for each in found.value if each.number == number), None)


def _socket(thread: ThreadView, descriptor: Descriptor | None) -> Socket | None:
    sockets = thread.process.process.sockets
    if descriptor is None or descriptor.kind != "socket" or not isinstance(sockets, Reading):
        return None
    if not isinstance(descriptor.inode, Reading):
        return None
    return next((each for each in sockets.value if each.inode == descriptor.inode.value), None)


def _always(thread: ThreadView, state: str) -> bool:
    return all(sample.state == state for sample in thread.samples if sample is not None)


def _kernel_words(thread: ThreadView) -> str:
    call = thread.syscall
    words = [call.name] if call is not None else []
    if thread.wchans:
        words.append(f"({thread.wchans[-1]})")
    return " ".join(words)
