"""`harness run` put together: run directory, watcher, main loop.

Not here: any of the parts.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from harness.limits import Overrides
from harness.supervise import policy
from harness.supervise.loop import LoopOptions, Supervisor
from harness.supervise.observing import Observing, ObservingOptions
from harness.supervise.opening import Request, open_run
from harness.supervise.signals import SignalInbox

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def supervise(args: argparse.Namespace, command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Run `command`, or continue what the run directory holds; the exit status of `harness run`."""
    overrides = Overrides.parse(args.stall_timeout)
    opened = open_run(
        Request(
            command=command,
            run_dir=args.run_dir,
            runs=args.runs,
            name=args.name,
            run_id=args.run_id,
            cwd=Path.cwd(),
            environment=environment,
        )
    )
    settings = policy.Settings(on_stall=args.on_stall, max_restarts=args.max_restarts)
    try:
        with SignalInbox() as inbox:
            watcher = Observing(
                opened,
                ObservingOptions(
                    overrides=overrides,
                    policy=settings,
                    metrics_port=args.metrics_port,
                    metrics_address=args.metrics_address,
                    metrics_token_file=args.metrics_token_file,
                    port_taken_fails=args.port_taken == "fail",
                    linger_seconds=args.linger,
                    log_keep_bytes=args.log_keep,
                    quiet=args.quiet,
                    live=not args.no_live,
                ),
                environment,
                wake=inbox.wake,
            )
            # Should the keeper be killed, its orphans come to us, and with them the command's exit status.
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            options = LoopOptions(
                terminal_stdin=args.stdin == "inherit", grace_seconds=args.grace, policy=settings
            )
            supervisor = Supervisor(opened, options, environment, inbox, watcher)
            with watcher:
                return supervisor.run()
    finally:
        opened.lock.release()
