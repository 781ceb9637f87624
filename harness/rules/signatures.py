"""What waiting looks like in the standard library and in the libraries of trainers: the one table of it.

The outermost library frame that the user's frame called names the wait: `queue.get`, not the lock inside
it. Not covered: a user's line that called C directly, and whether the thread waits at all
(`harness.rules.waits`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness import frames as code

if TYPE_CHECKING:
    from harness.evidence import Frame
    from harness.rules.threads import ThreadView

Kind: TypeAlias = Literal[
    "queue-get", "queue-put", "queue-join", "process-queue", "event", "join", "lock", "process-lock",
    "process-event", "future", "async", "sync-over-async", "socket-read", "socket-write", "socket-connect",
    "dns", "serve", "pipe-read", "pipe-write", "stdin", "file-lock", "child", "process-join", "pool",
    "pool-worker", "dataloader", "retry", "sleep", "disk", "collective", "rendezvous", "gpu", "exit",
    "compile", "native-futex", "native", "busy", "gil", "signal", "stopped", "unseen",
]  # fmt: skip

SLEEPS = frozenset({"clock_nanosleep", "nanosleep"})
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
    _signature("retry", r"tenacity/.*\.py", calls=SLEEPS | {"select", "pselect6"}),
    _signature("retry", r"urllib3/util/retry\.py", calls=SLEEPS | {"select", "pselect6"}),
    _signature("retry", r"(backoff/.*|retrying)\.py", calls=SLEEPS | {"select", "pselect6"}),
    _signature("retry", r"huggingface_hub/utils/_http\.py", calls=SLEEPS | {"select", "pselect6"}),
    _signature("retry", r"datasets/utils/file_utils\.py", calls=SLEEPS | {"select", "pselect6"}),
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
    _signature("process-event", r"multiprocessing/(managers|synchronize)\.py", "wait wait_for"),
    _signature("process-lock", r"multiprocessing/managers\.py", "acquire __enter__"),
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
    _signature("serve", r"grpc/_server\.py", "wait_for_termination"),
    _signature("serve", r"socket\.py", "accept"),
    _signature("socket-read", r"socket\.py", "readinto"),
    _signature("socket-read", r"ssl\.py", "read recv recv_into do_handshake"),
    _signature("socket-write", r"ssl\.py", "write send sendall"),
)


def signature_of(thread: ThreadView, user: Frame | None) -> tuple[Signature | None, Frame | None]:
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
