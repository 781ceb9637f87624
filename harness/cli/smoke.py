"""`harness smoke PLAN`: its options and their meaning; what it does is in `harness.smoke`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.smoke.plan import Plan, Stage

_INTERRUPTED = 130

_EPILOG = """\
Every stage of PLAN runs under the supervisor of `harness run`, in a run directory of its own below
runs/smoke-<UTC>/. One that stalls or is over its budget is diagnosed, then ended; what depends on it is
skipped, the others go on. report.json in that folder holds everything. Ctrl-C ends the stage that runs and
still gives the report; Ctrl-Z stops it, fg goes on.

exit status: 0 all passed; 1 some did not; 2 usage, or a mistake in the plan; 130 interrupted.

examples:
  harness smoke configs/smoke/cpu.yaml
  harness smoke configs/smoke/cpu.yaml --list
  harness smoke configs/smoke/cpu.yaml --set config=my.yaml --from data
  harness smoke configs/smoke/gpu.yaml --junit smoke.xml --timeout-scale 2"""


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "smoke",
        help="try every stage of a training, each within its budget",
        description="Try every stage of a training on this machine, each within its budget, and say "
        "which one does not work, and why.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", metavar="PLAN", type=Path, help="a YAML file; see docs/how-to/smoke.md")
    which = parser.add_argument_group("which stages")
    which.add_argument("--list", action="store_true", help="show the stages, and end")
    which.add_argument(
        "--only", metavar="STAGE,...", action="append", default=[], help="these alone; may be repeated"
    )
    which.add_argument("--from", dest="start", metavar="STAGE", help="this one and those after it")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--set",
        dest="settings",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="another value of the plan, for instance config=my.yaml; [a, b] is a list; may be repeated",
    )
    how.add_argument(
        "--timeout-scale",
        metavar="FACTOR",
        type=_factor,
        default=1.0,
        help="multiply every time limit: 2 on a slow machine (1)",
    )
    where = parser.add_argument_group("where to")
    where.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (runs)")
    where.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML as well")
    where.add_argument("--json", type=Path, metavar="FILE", help="write report.json here as well")


def run(args: argparse.Namespace) -> int:
    """Run the plan; the exit status."""
    from harness.smoke import files
    from harness.smoke.plan import load

    plan = load(args.plan, _settings(args.settings)).scaled(args.timeout_scale)
    only = [name.strip() for text in args.only for name in text.split(",") if name.strip()]
    if args.only and not only:
        raise UsageError("--only names no stage", remedy="harness smoke PLAN --list shows them")
    stages = plan.selected(only, args.start)
    if not stages:
        raise UsageError("no stage is left to run", remedy="--only names stages before --from")
    if args.list:
        print("\n".join(_listed(stages)))
        return 0
    for option in ("junit", "json"):
        path = getattr(args, option)
        if path is not None:
            files.check_writable(path, f"--{option}")
    return _run(args, plan, stages)


def _run(args: argparse.Namespace, plan: Plan, stages: Sequence[Stage]) -> int:
    from harness.smoke import files
    from harness.smoke.interrupts import Interrupts
    from harness.smoke.runner import Runner, new_folder
    from harness.smoke.screen import show_for

    folder = new_folder(args.runs, time.time())
    with Interrupts() as interrupts:
        show = show_for(sys.stdout)
        report = Runner(plan, stages, folder, show, again=_again(args)).run(interrupts)
        wanted = [(folder / "report.json", files.as_json(report))]
        if args.json is not None:
            wanted.append((args.json, files.as_json(report)))
        if args.junit is not None:
            wanted.append((args.junit, files.as_junit(report)))
        problems = [files.write(path, text) for path, text in wanted]
        show.finished(report)  # only now: who reads it may close the terminal, or open what it names
    for problem in filter(None, problems):
        print(f"harness smoke: {problem}", file=sys.stderr)
    if interrupts.count:
        return _INTERRUPTED
    return 0 if report.passed and not any(problems) else 1


def _again(args: argparse.Namespace) -> str:
    """The command line, as far as it says what is run."""
    words = ["harness", "smoke", str(args.plan)]
    words += [word for setting in args.settings for word in ("--set", setting)]
    words += [] if args.timeout_scale == 1 else ["--timeout-scale", f"{args.timeout_scale:g}"]
    return shlex.join(words)


def _listed(stages: Sequence[Stage]) -> list[str]:
    from harness.render.text import clock

    width = max(len(stage.name) for stage in stages)
    lines = []
    for stage in stages:
        needs = f"  (needs {', '.join(stage.needs)})" if stage.needs else ""
        lines.append(
            f"{stage.name:<{width}}  {clock(stage.budget_seconds):>6}  {stage.summary}{needs}".rstrip()
        )
    return lines


def _settings(texts: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    from harness.smoke import yamlfile

    found: dict[str, str | tuple[str, ...]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text!r}: is not name=value", remedy="Write --set config=my.yaml")
        if value.strip().startswith("["):
            item = yamlfile.parse(value, f"--set {name.strip()}", yamlfile.Values({}))
            found[name.strip()] = item.texts()
        else:
            found[name.strip()] = value
    return found


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no factor: write a number such as 2")
    return value
