"""The metrics server of a supervisor or a watcher: where it listens, and what to do where it cannot.

Not here: the server (`harness.metrics.server`), the metrics (`harness.metrics.families`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.metrics.listening import PortTakenError, read_token

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.metrics.server import Server
    from harness.snapshot import RunView


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
        return cls(
            port=args.metrics_port,
            address=args.metrics_address,
            token=None if args.metrics_port is None else read_token(args.metrics_token_file, environment),
            certificate=tuple(args.metrics_certificate) if args.metrics_certificate else None,
            taken_fails=args.port_taken == "fail",
        )


def serve(
    options: MetricsOptions, view: Callable[[], RunView | None], say: Callable[[str], None]
) -> Server | None:
    """The metrics server, answering; HarnessError where the user wants none rather than another port."""
    if options.port is None:
        return None
    from harness.metrics.collector import TrainerCollector
    from harness.metrics.server import Server

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
