"""`harness watch PID`: its options; what it does is in `harness.supervise.watching`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from harness.cli import options

_EPILOG = """\
Follows the process's records (if its environment names a HARNESS_RUN_DIR), else its log and what it uses;
serves its metrics; keeps the evidence of stalls. It ends when the process ends, and never touches it: neither
its end nor Ctrl-C does the training any harm.

exit status: 0 it ended well, or by itself where nobody can know its status, or was progressing when left;
1 it was stalled, or ended without having finished; 2 no such process, or a mistake on the command line.

examples:
  harness watch 4711
  harness watch $(pgrep -f 'train.py configs/m7c') --stall-timeout log=300
  harness watch 4711 --run-dir runs/latest"""


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "watch",
        help="watch a training that is already running and was not started by us",
        description="Watch a training that is already running and was not started by us.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pid", type=options.pid, metavar="PID", help="its process id, or that of its launcher"
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="the run directory that it writes to")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where incidents go otherwise (runs)"
    )
    options.add_stall_timeout(parser)
    options.add_metrics(parser)
    options.add_announce(parser)
    parser.add_argument("--quiet", action="store_true", help="say only what happens")


def run(args: argparse.Namespace) -> int:
    """Watch until it ends."""
    from harness.detect import Overrides
    from harness.supervise import announcing
    from harness.supervise.serving import MetricsOptions
    from harness.supervise.watching import Watching, WatchOptions
    from harness.watch import foreign

    chosen = WatchOptions(
        overrides=Overrides.parse(args.stall_timeout),
        run_dir=args.run_dir,
        runs=args.runs,
        metrics=MetricsOptions.of(args, os.environ),
        announce=args.announce,
        quiet=args.quiet,
    )
    announcing.check(args.announce, served=chosen.metrics.port is not None)
    return Watching(foreign.find(args.pid), chosen).watch()
