"""What one thread waits for: from its Python frames, and from what it asked of the kernel.

The one table of what waiting looks like in the standard library and in the libraries of trainers. The
outermost library frame that the user's frame called names the wait (`queue.get`, not the lock inside it);
the system call confirms it, or speaks alone where the user's line called C directly.

Not covered: who else has a part in it (`edges`), what it means (families).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness import frames as code
from harness.evidence import Reading
from harness.rules import lockfiles, runs

if TYPE_CHECKING:
    from harness.evidence import Descriptor, Frame, Socket, Syscall
    from harness.rules.source import Sources
    from harness.rules.threads import ThreadView

Kind: TypeAlias = Literal[
    "queue-get", "queue-put", "queue-join", "process-queue", "event", "join", "lock", "process-lock",
    "future", "async", "sync-over-async", "socket-read", "socket-write", "socket-connect", "dns",
    "serve", "pipe-read", "pipe-write", "stdin", "file-lock", "child", "process-join", "pool",
    "pool-worker", "dataloader", "retry", "sleep", "disk", "collective", "rendezvous", "gpu", "exit",
    "compile", "native-futex", "native", "busy", "gil", "signal", "stopped", "unseen",
]  # fmt: skip

# Of these the innermost user's frame does not wait: it works.
IDLE_CORES = 0.2

_FUTEX_OPERATION = 0x7F
_FUTEX_SHARED = 0x109
# A Python lock is a semaphore: FUTEX_WAIT_BITSET | PRIVATE | CLOCK_REALTIME.
_FUTEX_LOCK = 0x189
_SLEEP_CALL = re.compile(r"\bsleep\(")
_SLEEPS = frozenset({"clock_nanosleep", "nanosleep"})
_POLLS = frozenset({"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"})
_READS = frozenset({"read", "readv", "pread64", "recvfrom", "recvmsg"})
_WRITES = frozenset({"write", "writev", "sendto", "sendmsg", "sendfile"})
_SETLKW = frozenset({7, 38})  # F_SETLKW, F_OFD_SETLKW

_COLLECTIVES = (
    "all_reduce all_gather all_gather_into_tensor all_gather_object all_to_all all_to_all_single barrier "
    "monitored_barrier broadcast broadcast_object_list gather gather_object reduce reduce_scatter "
    "reduce_scatter_tensor scatter scatter_object_list send recv batch_isend_irecv"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Frames of one file whose functions wait; with `calls`, only while in one of these system calls."""

    kind: Kind
    file: re.Pattern[str]
    functions: frozenset[str]
    calls: frozenset[str] = frozenset()


def _signature(kind: Kind, file: str, functions: str = "", calls: frozenset[str] = frozenset()) -> Signature:
    names = frozenset(functions.split())
    return Signature(kind=kind, file=re.compile(rf"(^|/)({file})$"), functions=names, calls=calls)


SIGNATURES: tuple[Signature, ...] = (
    _signature("exit", r"threading\.py", "_shutdown"),
    _signature("exit", r"multiprocessing/util\.py", "_exit_function"),
    _signature("exit", r"concurrent/futures/(thread|process)\.py", "_python_exit"),
    _signature("compile", r"torch/_inductor/.*\.py"),
    _signature("compile", r"torch/utils/cpp_extension\.py", "_run_ninja_build"),
    _signature("compile", r"torch/_dynamo/convert_frame\.py"),
    _signature(
        "dataloader", r"torch/utils/data/dataloader\.py", "_try_get_data _get_data _next_data __next__"
    ),
    _signature("dataloader", r"torch/utils/data/dataloader\.py", "_shutdown_workers"),
    _signature(
        "rendezvous",
        r"torch/distributed/distributed_c10d\.py",
        "init_process_group _store_based_barrier _new_process_group_helper",
    ),
    _signature("rendezvous", r"torch/distributed/(rendezvous|elastic/rendezvous/.*)\.py"),
    _signature("rendezvous", r"torch/distributed/elastic/utils/store\.py", "synchronize get_all barrier"),
    _signature("collective", r"torch/distributed/distributed_c10d\.py", _COLLECTIVES),
    _signature("collective", r"torch/nn/parallel/distributed\.py"),
    _signature("collective", r"torch/distributed/(nn/)?(functional|_functional_collectives)\.py"),
    _signature("gpu", r"torch/cuda/(__init__|streams)\.py", "synchronize wait"),
    _signature("file-lock", r"filelock/.*\.py"),
    _signature("file-lock", r"torch/utils/file_baton\.py", "wait"),
    _signature("file-lock", r"(portalocker|fasteners)/.*\.py"),
    _signature("retry", r"tenacity/.*\.py", calls=_SLEEPS | {"select", "pselect6"}),
    _signature("retry", r"urllib3/util/retry\.py", calls=_SLEEPS | {"select", "pselect6"}),
    _signature("retry", r"(backoff/.*|retrying)\.py", calls=_SLEEPS | {"select", "pselect6"}),
    _signature("retry", r"huggingface_hub/utils/_http\.py", calls=_SLEEPS | {"select", "pselect6"}),
    _signature("retry", r"datasets/utils/file_utils\.py", calls=_SLEEPS | {"select", "pselect6"}),
    _signature("sync-over-async", r"fsspec/asyn\.py", "sync"),
    _signature(
        "future", r"concurrent/futures/_base\.py", "result exception wait as_completed result_iterator"
    ),
    _signature(
        "async",
        r"asyncio/(runners|base_events|unix_events)\.py",
        "run run_forever run_until_complete _run_once",
    ),
    _signature("process-queue", r"multiprocessing/queues\.py", "get put join join_thread _finalize_join"),
    _signature("process-queue", r"multiprocessing/managers\.py", "_callmethod"),
    _signature("pool", r"multiprocessing/pool\.py", "get wait map apply starmap next join __next__"),
    _signature("pool-worker", r"multiprocessing/pool\.py", "worker"),
    _signature("process-join", r"torch/multiprocessing/spawn\.py", "join"),
    _signature("process-join", r"multiprocessing/process\.py", "join"),
    _signature("process-join", r"multiprocessing/popen_(fork|spawn_posix|forkserver)\.py", "wait poll"),
    _signature("process-lock", r"multiprocessing/synchronize\.py"),
    _signature("pipe-read", r"multiprocessing/connection\.py", "recv recv_bytes recv_bytes_into poll wait"),
    _signature("pipe-write", r"multiprocessing/connection\.py", "send send_bytes"),
    _signature("child", r"subprocess\.py", "run call check_call check_output communicate wait getoutput"),
    _signature("queue-get", r"queue\.py", "get"),
    _signature("queue-put", r"queue\.py", "put"),
    _signature("queue-join", r"queue\.py", "join"),
    _signature("join", r"threading\.py", "join _wait_for_tstate_lock"),
    _signature("event", r"threading\.py", "wait wait_for acquire"),
    _signature("lock", r"threading\.py", "__enter__ _acquire_restore"),
    _signature("lock", r"logging/__init__\.py", "acquire"),
    _signature("lock", r"<frozen importlib\._bootstrap>", "acquire"),
    _signature("dns", r"socket\.py", "getaddrinfo getfqdn gethostbyname"),
    _signature("socket-connect", r"socket\.py", "create_connection"),
    _signature("socket-connect", r"urllib3/util/connection\.py", "create_connection"),
    _signature("serve", r"socketserver\.py", "serve_forever"),
    _signature("serve", r"socket\.py", "accept"),
    _signature("socket-read", r"socket\.py", "readinto"),
    _signature("socket-read", r"ssl\.py", "read recv recv_into do_handshake"),
    _signature("socket-write", r"ssl\.py", "write send sendall"),
)


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
    user = own_frame(thread)
    if thread.state in ("T", "t"):
        return Wait(kind="stopped", thread=thread, user=user, on=_kernel_words(thread))
    if not thread.frames:
        return Wait(kind="unseen", thread=thread, user=None, on=_kernel_words(thread))
    if thread.state == "D" and len(thread.samples) > 1 and _always(thread, "D"):
        return Wait(kind="disk", thread=thread, user=user, on=_kernel_words(thread))
    working = is_busy(thread)
    signature, frame = _library(thread, user)
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
    # On a crowded machine a thread that wants to run gets little of a CPU.
    ready = (bool(seen) and seen.count("R") * 2 > len(seen)) or runs.wants_cpu(thread)
    if cores is not None and cores >= IDLE_CORES:
        return True
    # One that asks for the GIL wakes up every few milliseconds, and then stands in line for a CPU as well.
    return ready and not any(each.holds_gil for each in thread.process.threads if each is not thread)


def own_frame(thread: ThreadView) -> Frame | None:
    """The user's deepest frame; without one, the deepest of a package."""
    return thread.user_frame


def _library(thread: ThreadView, user: Frame | None) -> tuple[Signature | None, Frame | None]:
    """The outermost known frame below the user's own."""
    inner: list[Frame] = []
    for frame in thread.python_frames:
        if frame is user and code.owner(frame) == "user":
            break
        inner.append(frame)
    call = thread.syscall.name if thread.syscall else ""
    for frame in reversed(inner):
        if frame.function == "create_connection" and any(each.function == "getaddrinfo" for each in inner):
            continue
        for signature in SIGNATURES:
            if signature.functions and frame.function not in signature.functions:
                continue
            if frame.function == "<module>":
                continue  # it is imported, and does nothing yet of what it is for
            if signature.kind == "compile" and any(code.is_generated(each) for each in inner):
                continue  # what was compiled runs, below its compiler's own frames
            if signature.file.search(frame.file) and (not signature.calls or call in signature.calls):
                return signature, frame
    return None, None


def _by_syscall(thread: ThreadView, user: Frame | None, sources: Sources) -> Wait:
    call = thread.syscall
    statement = sources.statement(user) if user else ""
    if call is None:
        # Where system calls may not be read, a line of the user's that calls sleep says it as well.
        innermost = next(iter(thread.python_frames), None)
        if not thread.syscalls and user is innermost and _SLEEP_CALL.search(statement):
            return Wait(kind="sleep", thread=thread, user=user, on=statement)
        return Wait(kind="native", thread=thread, user=user, on=_kernel_words(thread))
    if call.name == "futex":
        return _described(_futex(call, user, sources, thread), thread, user, None)
    if call.name in _SLEEPS or (call.name in ("select", "pselect6") and not any(call.arguments[:4])):
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
        return _described(_io_kind(thread, call), thread, user, None)
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
    if in_native and user is not None and user is thread.python_frames[0] and "sleep" not in statement:
        return Wait(
            kind="native", thread=thread, user=user, on=f"a sleep in native code, {_kernel_words(thread)}"
        )
    return Wait(kind="sleep", thread=thread, user=user, on=statement)


def _futex(call: Syscall, user: Frame | None, sources: Sources, thread: ThreadView) -> Kind:
    operation = call.arguments[1] if len(call.arguments) > 1 else 0
    if operation == _FUTEX_SHARED:
        return "process-lock"
    # A thread that waits for the GIL does so with a timeout, and somebody else owns it in every dump.
    if any(other.holds_gil for other in thread.process.threads if other is not thread):
        return "gil"
    wants = user is not None and sources.asked(user) is not None
    wants = wants or any("PyThread_acquire_lock" in each.function for each in thread.native_frames)
    innermost = thread.python_frames[0] if thread.python_frames else None
    timed = bool(call.arguments[3]) if len(call.arguments) > 3 else False
    # Without its source, a direct call that waits as Python's locks do is taken for one.
    unknown = user is not None and user is innermost and sources.of(user) is None and not timed
    return "lock" if wants or (operation == _FUTEX_LOCK and unknown) else "native-futex"


def _io_kind(thread: ThreadView, call: Syscall) -> Kind:
    descriptor = _descriptor(thread, call.arguments[0])
    reads = call.name in _READS
    if descriptor is None:
        return "native"
    if descriptor.kind == "socket":
        return "socket-read" if reads else "socket-write"
    if reads and (descriptor.number == 0 or descriptor.kind == "tty"):
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
    return "socket-read" if re.search(r"\.(recv\w*|read\w*|makefile)\(", statement) else "native"


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
