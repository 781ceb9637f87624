"""Stage `stall drill`: a training whose data source falls silent on purpose, for the harness to notice.

After some steps the reading thread waits for a peer that never sends anything, as it would for a dead server:
the main thread waits for a batch, the batch for the socket. The trainer itself would give up after
data.stall_timeout_seconds; the harness has to say what is wrong before that.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from nsa.report import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nsa.smoke.stage import Task

_BATCHES = 30
# The trainer's own patience; the drill is over long before.
_PATIENCE_SECONDS = 120


def run(task: Task) -> None:
    """Train until the source falls silent, and then stand."""
    from nsa import train
    from nsa.data import stream

    config = task.load()
    steps = task.steps or _BATCHES
    batches = steps * config.train.accumulation
    rounds = stream.rounds

    def falls_silent(*arguments: Any, **named: Any) -> Iterator[Any]:
        for number, item in enumerate(rounds(*arguments, **named), start=1):
            yield item
            if number == batches:
                _wait_for_nobody()

    stream.rounds = falls_silent
    overrides = (
        f"data.stall_timeout_seconds={_PATIENCE_SECONDS}",
        *task.overrides,
        f"train.steps={100 * steps}",
        "eval.every=0",
        "eval.batches=1",
        "checkpoint.every=0",
    )
    train.run(train.Options(config=task.config, overrides=overrides, resume="never"))


def _wait_for_nobody() -> None:
    """Read from a peer that took the connection and says nothing, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        taken, _ = server.accept()
        say(f"drill: the source at {peer.getpeername()[0]}:{peer.getpeername()[1]} falls silent now")
        with peer, taken:
            peer.recv(1)
