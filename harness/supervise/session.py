"""`harness run` put together: run directory, watcher, main loop.

Not here: any of the parts.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.limits import Overrides
from harness.render.screen import Screen
from harness.supervise import announcing, policy
from harness.supervise.loop import LoopOptions, Supervisor
from harness.supervise.observing import Observing, ObservingOptions
from harness.supervise.opening import Opened, Request, open_run
from harness.supervise.serving import MetricsOptions, serve
from harness.supervise.signals import SignalInbox

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def supervise(args: argparse.Namespace, command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Run `command`, or continue what the run directory holds; the exit status of `harness run`."""
    overrides = Overrides.parse(args.stall_timeout)
    settings = _settings(args.on_stall, args.max_restarts)
    metrics = MetricsOptions.of(args, environment)
    announcing.check(args.announce, served=metrics.port is not None)
    linger_seconds = args.linger
    if linger_seconds is None:
        linger_seconds = announcing.LINGER_SECONDS if args.announce is not None else 0.0
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
        overrides=overrides,
        policy=settings,
        linger_seconds=linger_seconds,
        log_keep_bytes=args.log_keep,
        instrument=args.auto == "on",
    )
    loop = LoopOptions(
        terminal_stdin=args.stdin == "inherit",
        grace_seconds=args.grace,
        policy=settings,
        instrument=args.auto == "on",
    )
    with SignalInbox() as inbox:  # before anything can be seen of us: whoever sees us may signal us
        opened = open_run(request)
        try:
            screen = Screen(
                quiet=args.quiet, live=not args.no_live, log_name=str(opened.run.output_log), spare=2
            )
            watcher = Observing(
                opened,
                observing,
                environment,
                screen=screen,
                serve=lambda view: serve(metrics, view, screen.line),
                wake=inbox.wake,
            )
            with watcher:
                _announce(opened, watcher.metrics_url, screen.line)
                screen.lines(overrides.doubts())
                announced = announcing.announced(
                    args.announce,
                    run_id=opened.file.record.run_id,
                    url=watcher.metrics_url,
                    run_dir=opened.run.path,
                    say=screen.line,
                )
                # Should the keeper be killed, its orphans come to us, and with them the exit status.
                ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
                with announced:
                    return Supervisor(opened, loop, environment, inbox, watcher).run()
        finally:
            opened.lock.release()


def _settings(on_stall: policy.OnStall, max_restarts: int | None) -> policy.Settings:
    if max_restarts is None:
        return policy.Settings(on_stall=on_stall)
    if on_stall != "restart":
        raise UsageError(
            f"--max-restarts {max_restarts}: nothing is restarted with --on-stall {on_stall}",
            remedy="Add --on-stall restart, or leave it out",
        )
    return policy.Settings(on_stall=on_stall, max_restarts=max_restarts)


def _announce(opened: Opened, metrics_url: str | None, say: Callable[[str], None]) -> None:
    parts = [f"run {opened.file.record.run_id}", opened.shown_path()]
    if opened.alive:
        parts.append(f"its command still runs: supervising pid {opened.alive.pid} again")
    elif opened.file.record.attempt:
        parts.append(f"attempt {opened.file.record.attempt + 1}")
        if opened.home is not None:
            parts.append(f"in {opened.home}")
    if metrics_url:
        parts.append(f"metrics {metrics_url}")
    say(" · ".join(parts))
    if opened.elsewhere is not None:
        number = opened.file.record.attempt
        say(
            f"attempt {number} began on host {opened.elsewhere}, and nothing here says that it ended: "
            "if it still runs there, end it, or two trainings write into this directory"
        )
