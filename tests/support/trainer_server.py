"""Starts trainers by fork, after the imports: they cost four seconds each, and all the rest a tenth of one.

    python -m tests.support.trainer_server

Reads one JSON object a line: {"arguments": […], "env": {…}, "stdout": PATH, "stderr": PATH, "first": CODE}
starts `nsa ARGUMENTS`, once it has run CODE, and answers with its pid; {"pid": N} answers with its exit
status, or null while it runs. Ends, and with it what it started, when its input does.

Each trainer is a process like any other: it takes signals, has an environment and standard streams of its
own, and goes through the interpreter's whole end. What a fork cannot show is the start before torch; tests of
that start a program (tests.support.tiny_run.start).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

# Imported when first used; by the optimizer's first step, in the case of dynamo.
import pyarrow.parquet  # noqa: F401
import torch._dynamo  # noqa: F401

from nsa import cli, config, loop, session
from nsa.data import sources


def become(asked: dict[str, Any]) -> int:
    """In the child: be `nsa`."""
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, asked["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, asked["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(asked["env"])
    exec(asked["first"], {})
    return cli.main(asked["arguments"])


def main() -> int:
    """Serve until the input ends."""
    assert all(map(callable, (config.load, loop.Loop, session.build)))
    sources.import_all()
    running: set[int] = set()
    ended: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer: int | None
        if "pid" in asked:
            pid = asked["pid"]
            if pid in running:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    running.remove(pid)
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(pid)
        else:
            answer = os.fork()
            if answer == 0:
                return become(asked)
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
