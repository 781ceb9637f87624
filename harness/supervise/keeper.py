"""The command's parent: a small process of its own, so that the supervisor may die without hurting the run.

It starts the command, waits for it, writes down how it ended, reaps what the command left orphaned, and ends
when nothing is left. It is the subreaper of the command's tree: whatever the command starts stays below it,
whatever session it moves to. Killing the supervisor with SIGKILL loses nothing: a later one reads the exit
status from the record that this process wrote.

Run as a script (`python -I -S keeper.py DIR FD`), with the standard library alone and little of that; never
imported by the harness. Not here: any decision. It obeys no signal; it speaks JSON lines over the socket FD.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_RECORD_BYTES = 1024  # reserved at the start, so that the ending can be written on a full disk
_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGUSR2")
_PYTHONS = ("SIGPIPE", "SIGXFSZ")  # ignored by the interpreter; the command gets them back


def main(descriptor: int) -> None:
    """Serve one command until nothing of it is left."""
    os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptor)
    order = json.loads(channel.makefile("r", encoding="utf-8", errors="surrogateescape").readline())
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # we were started with some held back
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started_at = time.time()
    pid, problem = _launch(order["command"], own_session=order["own_session"], hangup=order["hangup"])
    if problem:
        _tell(channel, {"errno": problem})
        return
    record = {
        "attempt": order["attempt"],
        "keeper_pid": os.getpid(),
        "pid": pid,
        "start_time_ticks": _start_time_ticks(pid),
        "started_at": started_at,
        "wait_status": None,
        "ended_at": None,
    }
    _write_record(order["record"], record)
    _tell(channel, record)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)  # the terminal is the command's: not held open from here
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            return
        if ended == pid:
            record.update(wait_status=status, ended_at=time.time())
            _amend_record(order["record"], record)
            _tell(channel, record)


def _launch(command: list[str], *, own_session: bool, hangup: bool) -> tuple[int, int]:
    """Fork and exec; (pid, 0), or (0, errno) where the exec failed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        problem = errno.ENOEXEC
        try:
            if own_session:
                os.setsid()
            for name in (*_IGNORED, *_PYTHONS):
                if hangup or name != "SIGHUP":
                    signal.signal(getattr(signal, name), signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.execvpe(command[0], command, os.environ)  # noqa: S606 -- what it is for
        except OSError as error:
            problem = error.errno or problem
        except ValueError:  # a NUL byte in an argument
            problem = errno.EINVAL
        finally:
            os.write(writer, str(problem).encode())
            os._exit(127)
    os.close(writer)
    text = os.read(reader, 16)
    os.close(reader)
    if text:
        os.waitpid(pid, 0)
        return 0, int(text)
    return pid, 0


def _start_time_ticks(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 -- pathlib would double the start-up
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _tell(channel: socket.socket, document: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone: the record on disk speaks for us
        channel.sendall(json.dumps(document).encode() + b"\n")


def _padded(record: dict[str, object]) -> bytes:
    return json.dumps(record).encode().ljust(_RECORD_BYTES - 1) + b"\n"


def _write_record(path: str, record: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # a full disk must not keep the command from running
        with open(path + ".new", "wb") as file:  # noqa: PTH123 -- as above
            file.write(_padded(record))
        os.replace(path + ".new", path)  # noqa: PTH105 -- as above


def _amend_record(path: str, record: dict[str, object]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY)
        os.pwrite(descriptor, _padded(record), 0)
        os.close(descriptor)
    except OSError:
        _write_record(path, record)


if __name__ == "__main__":
    main(int(sys.argv[2]))
