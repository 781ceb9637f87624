"""`harness explain DIR`: what a Case shows, again, from its folder alone.

Until rules judge, it prints what was seen. Exit status: 0 progress was seen between the samples, 1 none
was, 2 the folder is no Case, 3 too little was seen to tell.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness import bundle
from harness.errors import HarnessError
from harness.headline import headline
from harness.movement import movement
from harness.render import case_text

if TYPE_CHECKING:
    import argparse

EXIT_STATUSES = {"moved": 0, "still": 1, "unknown": 3}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line of `harness explain`."""
    parser = subparsers.add_parser(
        "explain",
        help="show again what an incident's evidence says",
        description="Show what the evidence in DIR says. 0: progress was seen, 1: none was, 3: cannot tell.",
    )
    parser.add_argument(
        "directory", metavar="DIR", type=Path, help="an incident, or a folder made with --out"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the Case; HarnessError for a folder that is none, unless JSON was asked for."""
    try:
        case = bundle.load(arguments.directory)
    except HarnessError as error:
        if not arguments.json:
            raise
        print(json.dumps({"schema": "harness.explain/1", "error": str(error)}))
        return error.exit_status
    found = movement(case)
    if arguments.json:
        document = {
            "schema": "harness.explain/1",
            "pid": case.target.pid,
            "taken_at_seconds": case.taken_at_seconds,
            "took_seconds": case.took_seconds,
            "movement": found.verdict,
            "facts": list(found.facts),
            "headline": headline(case),
            "not_seen": case_text.not_seen(case),
        }
        print(json.dumps(document))
    else:
        print("\n".join(case_text.case_lines(case)))
    return EXIT_STATUSES[found.verdict]
