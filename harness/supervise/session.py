"""`harness run` put together: run directory, watcher, main loop.

Not here: any of the parts.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.limits import Overrides
from harness.render.screen import Screen
from harness.supervise import policy
from harness.supervise.loop import LoopOptions, Supervisor
from harness.supervise.observing import Observing, ObservingOptions
from harness.supervise.opening import Opened, Request, open_run
from harness.supervise.signals import SignalInbox

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from harness.serve import Server
    from harness.view import RunView

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def supervise(args: argparse.Namespace, command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Run `command`, or continue what the run directory holds; the exit status of `harness run`."""
    overrides = Overrides.parse(args.stall_timeout)
    settings = policy.Settings(on_stall=args.on_stall, max_restarts=args.max_restarts)
    metrics = MetricsOptions.of(args, environment)
    request = Request(
        command=command,
        run_dir=args.run_dir,
        runs=args.runs,
        name=args.name,
        run_id=args.run_id,
        cwd=Path.cwd(),
        environment=environment,
    )
    observing = ObservingOptions(
        overrides=overrides, policy=settings, linger_seconds=args.linger, log_keep_bytes=args.log_keep
    )
    loop = LoopOptions(terminal_stdin=args.stdin == "inherit", grace_seconds=args.grace, policy=settings)
    with SignalInbox() as inbox:  # before anything can be seen of us: whoever sees us may signal us
        opened = open_run(request)
        try:
            screen = Screen(quiet=args.quiet, live=not args.no_live, log_name=str(opened.run.output_log))
            watcher = Observing(
                opened,
                observing,
                environment,
                screen=screen,
                serve=lambda view: _serve(metrics, view, screen.line),
                wake=inbox.wake,
            )
            with watcher:
                _announce(opened, watcher.metrics_url, screen.line)
                # Should the keeper be killed, its orphans come to us, and with them the exit status.
                ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
                return Supervisor(opened, loop, environment, inbox, watcher).run()
        finally:
            opened.lock.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsOptions:
    """Where metrics are served."""

    port: int | None  # None: nowhere
    address: str
    token: str | None
    certificate: tuple[Path, Path] | None
    taken_fails: bool

    @classmethod
    def of(cls, args: argparse.Namespace, environment: Mapping[str, str]) -> MetricsOptions:
        """From the command line; UsageError where the token cannot be read."""
        token = None
        if args.metrics_port is not None:
            from harness.serve import read_token

            token = read_token(args.metrics_token_file, environment)
        return cls(
            port=args.metrics_port,
            address=args.metrics_address,
            token=token,
            certificate=tuple(args.metrics_certificate) if args.metrics_certificate else None,
            taken_fails=args.port_taken == "fail",
        )


def _serve(
    options: MetricsOptions, view: Callable[[], RunView | None], say: Callable[[str], None]
) -> Server | None:
    """The metrics server, answering; HarnessError where the user wants none rather than another port."""
    if options.port is None:
        return None
    from harness.metrics import TrainerCollector
    from harness.serve import PortTakenError, Server

    def at(port: int) -> Server:
        server = Server(
            TrainerCollector(view),
            view,
            address=options.address,
            port=port,
            token=options.token,
            certificate=options.certificate,
        )
        server.start()
        return server

    try:
        server = at(options.port)
    except PortTakenError as taken:
        if options.taken_fails:
            raise
        server = at(0)
        who = f"pid {taken.pid} ({taken.command})" if taken.pid else "another user's process"
        say(f"port {taken.port} is taken by {who}: metrics are on port {server.port}")
    except HarnessError:
        raise
    except Exception as error:  # noqa: BLE001 -- no metrics is no reason not to train
        say(f"harness: metrics failed ({type(error).__name__}: {error}); the run goes on without them")
        return None
    for warning in server.warnings:
        say(warning)
    return server


def _announce(opened: Opened, metrics_url: str | None, say: Callable[[str], None]) -> None:
    parts = [f"run {opened.file.record.run_id}", opened.shown_path()]
    if opened.alive:
        parts.append(f"its command still runs: supervising pid {opened.alive.pid} again")
    elif opened.file.record.attempt:
        parts.append(f"attempt {opened.file.record.attempt + 1}")
    if metrics_url:
        parts.append(f"metrics {metrics_url}")
    say(" · ".join(parts))
