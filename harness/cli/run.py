"""`harness run`: its options and their meaning; what it does is in `harness.supervise`.

Every refusal of ours ends with 125, as of `timeout` or `env`: 2 may be the command's own.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import options
from harness.errors import HarnessError, UsageError
from harness.supervise import policy

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = 125

_EPILOG = """\
The command's output goes straight into DIR/log/output.log, which the harness follows: closing the terminal,
Ctrl-Z on a slow pager or SIGKILL on the harness leave the training alone.

  Ctrl-C once   SIGINT to the command, as without the harness; twice: kill it and everything it started
  Ctrl-Z, fg    stop and continue the command's whole tree; the time in between is no stall
  SIGTERM, SIGUSR1, SIGUSR2   passed on to the command
  SIGHUP        (the terminal closed) the training and its supervision go on; look with `harness status`

exit status: the command's own; 128+N if signal N ended it; 124 if it stalled and was ended for that;
125 if the harness itself failed or refused; 126, 127 if the command cannot be executed or was not found.

examples:
  harness run -- nsa train configs/quickstart.yaml
  harness run --on-stall restart --max-restarts 5 -- python train.py
  harness run --run-dir runs/latest                  continue: adopt it if it still runs, else start it again
  harness run --stall-timeout train=60,dataset=300 -- torchrun --nproc-per-node 8 train.py
  harness run --announce /var/lib/prometheus/runs -- python train.py
  harness run --metrics-port off --stdin inherit -- python -i explore.py"""


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "run",
        usage="harness run [options] -- COMMAND [ARGUMENT ...]",
        description="Run a training, watched over: its log, its metrics, its stalls and its exit status.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.usage_status = FAILED
    where = parser.add_argument_group("where the run is kept")
    where.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="make the run here, or continue the one that is here"
    )
    where.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of new runs (runs)"
    )
    where.add_argument(
        "--name",
        type=options.name,
        metavar="NAME",
        help="name of a new run (from the command's configuration or script)",
    )
    where.add_argument(
        "--run-id",
        type=options.name,
        metavar="ID",
        help="id of the run, the same on all nodes (TORCHELASTIC_RUN_ID, SLURM_JOB_ID, or made)",
    )
    where.add_argument(
        "--log-keep",
        type=options.size,
        default=2**30,
        metavar="SIZE",
        help="keep so much of the command's newest output (1G)",
    )
    stall = parser.add_argument_group("stalls")
    stall.add_argument(
        "--on-stall", choices=policy.ON_STALL, default="report", help="what to do about one (report)"
    )
    stall.add_argument(
        "--max-restarts",
        type=options.restarts,
        metavar="N",
        help=f"with --on-stall restart ({policy.DEFAULT_MAX_RESTARTS})",
    )
    options.add_stall_timeout(stall)
    stall.add_argument(
        "--grace",
        type=options.seconds,
        default=policy.TERM_GRACE_SECONDS,
        metavar="SECONDS",
        help=f"between SIGTERM and SIGKILL ({policy.TERM_GRACE_SECONDS:g})",
    )
    metrics = parser.add_argument_group("metrics")
    options.add_metrics(metrics)
    options.add_announce(metrics)
    metrics.add_argument(
        "--linger",
        type=options.seconds,
        metavar="SECONDS",
        help="serve so long after the end, or until scraped (0; with --announce 30)",
    )
    parser.add_argument_group("instrumentation").add_argument(
        "--auto",
        choices=("on", "off"),
        default="on",
        help="record stages, steps and losses of torch trainers without a change of code (on)",
    )
    terminal = parser.add_argument_group("terminal")
    terminal.add_argument(
        "--stdin",
        choices=("null", "inherit"),
        default="null",
        help="what the command reads: nothing, or the terminal (null)",
    )
    terminal.add_argument("--quiet", action="store_true", help="show the command's output alone")
    terminal.add_argument("--no-live", action="store_true", help="no live line: a plain one now and then")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit status, or ours."""
    from harness.supervise.session import supervise

    try:
        return supervise(args, _command(args.command), os.environ)
    except HarnessError as error:
        print(f"harness run: {error}", file=sys.stderr)
        return max(error.exit_status, FAILED)


def _command(rest: Sequence[str]) -> tuple[str, ...]:
    """What stands behind the two dashes."""
    if not rest:
        return ()
    if rest[0] != "--":
        raise UsageError(
            f"{rest[0]!r} stands where an option was expected",
            remedy=f"Put two dashes before the command: harness run -- {' '.join(rest)}",
        )
    if not rest[1:] or not rest[1]:
        raise UsageError("no command behind the two dashes", remedy="harness run -- nsa train CONFIG")
    return tuple(rest[1:])
