"""`harness explain DIR`: what a Case shows, again, from its folder alone.

The diagnosis first, then what was seen. Exit status as of `harness diagnose`: 0 it progressed, 1 it did not,
2 the folder is no Case, 3 too little was seen to tell. JSON is the document of `harness diagnose`, with some
keys more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness import bundle
from harness.errors import HarnessError, UsageError
from harness.findings import SCHEMA
from harness.headline import headline
from harness.movement import movement
from harness.render import as_json, case_text, terminal
from harness.rules import diagnose
from harness.rundir import RunDirectory

if TYPE_CHECKING:
    import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command line of `harness explain`."""
    parser = subparsers.add_parser(
        "explain",
        help="show again what an incident's evidence says",
        description="Show what the evidence in DIR says; of a run directory, what its newest incident does. "
        "0: progress was seen, 1: none was, 3: cannot tell.",
    )
    parser.add_argument(
        "directory", metavar="DIR", type=Path, help="an incident, a folder made with --out, or a run"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the Case; HarnessError for a folder that is none, unless JSON was asked for."""
    try:
        case = bundle.load(_evidence(arguments.directory))
    except HarnessError as error:
        if not arguments.json:
            raise
        print(json.dumps({"schema": SCHEMA, "error": str(error)}))
        return error.exit_status
    found, diagnosis = movement(case), diagnose(case)
    if arguments.json:
        document = {
            **as_json.document(case, diagnosis),
            "taken_at_seconds": case.taken_at_seconds,
            "movement": found.verdict,
            "facts": list(found.facts),
            "headline": headline(case),
            "not_seen": case_text.not_seen(case),
        }
        print(as_json.text(document))
    else:
        seen = case_text.case_lines(case, judged=diagnosis.verdict.state != "unknown")
        print("\n".join([*terminal.screen(case, diagnosis), "", *seen]))
    return diagnosis.exit_status


def _evidence(named: Path) -> Path:
    """The folder that is meant: of a run directory, the incident with the newest evidence."""
    try:
        run = RunDirectory(named)
        if _exists(named / bundle.CASE_FILE) or not _exists(run.record):
            return named
        folders = [each for one in run.incidents_of_all() if one.is_dir() for each in one.iterdir()]
        kept = [each for each in folders if each.name.isdigit() and _exists(each / bundle.CASE_FILE)]
    except OSError as error:  # a colleague's: incidents are closed to others
        raise UsageError(
            f"{error.filename}: cannot be read: {error.strerror}", remedy="Check its rights"
        ) from None
    if not kept:
        raise UsageError(
            f"{named}: this run has no incident", remedy=f"Where it stands: harness status {named}"
        )
    return max(kept, key=lambda each: int(each.name))


def _exists(path: Path) -> bool:
    """Whether it is there; OSError where that is not ours to know."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
