"""`harness status`: where a run stands, from its files alone; nothing has to run for it.

The gathering of facts is `harness.supervise.standing`; here are its options and its words.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from harness.cli import options
from harness.errors import HarnessError
from harness.render.text import single_line, spoken

if TYPE_CHECKING:
    from harness.supervise.standing import Standing

_EPILOG = """\
states:
  starting      no attempt has begun yet
  running       its command runs and progresses
  stalled       its command runs, and an incident is open
  unsupervised  its command runs, but its harness is gone: harness run --run-dir DIR supervises it again
  finished      its command ended with exit status 0
  died          its command ended otherwise: exit status or signal
  lost          its command is gone and nobody saw how it ended (the machine went down, say)
  elsewhere     it runs, or ran, on another host, and its files do not say how it ended

exit status: 0, whatever state it is; 2 where there is no run to tell of."""


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "status",
        description="Where a run stands, from its files alone: running or dead, on this machine or another.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from harness.supervise.standing import stand

    try:
        standing = stand(args.run_dir)
    except HarnessError as error:
        if args.json:
            print(json.dumps({"schema": "harness.status/1", "error": str(error)}))
        print(f"harness status: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(standing.document(), indent=1))
    else:
        print("\n".join(lines(standing)))
    return 0


def lines(standing: Standing) -> list[str]:
    """What a user reads."""
    record = standing.record
    found = [f"{standing.state.upper()} · {single_line(standing.sentence)}", ""]
    rows: list[tuple[str, str]] = [("run", f"{record.run_id} · {standing.path}")]
    rows.append(("command", shlex.join(record.command)))
    if standing.pid is not None:
        rows.append(("pid", f"{standing.pid} on {record.host}"))
    if standing.at:
        rows.append(("at", standing.at))
    if standing.numbers:
        rows.append(("", standing.numbers))
    if standing.age_seconds is not None:
        rows.append(("progress", f"{spoken(standing.age_seconds)} ago"))
    if len(record.attempts) > 1:
        rows.append(("attempts", " · ".join(standing.attempts)))
    if standing.incidents:
        rows.append(("incidents", standing.incidents))
    if standing.metrics_address:
        rows.append(("metrics", standing.metrics_address))
    rows.append(("log", str(standing.log)))
    rows.extend(("note", note) for note in standing.notes)
    found.extend(f"  {label:<10}{single_line(text)}" for label, text in rows)
    return found
