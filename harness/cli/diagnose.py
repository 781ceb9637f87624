"""`harness diagnose PID`: why is it not moving? Its options, and the guard over its deadline.

It only looks. Exit status: 0 it progresses, 1 it does not, 2 usage or no such process, 3 could not tell. Not
covered: looking (`harness.collect`), judging (`harness.rules`).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, UsageError
from harness.evidence import Missing, Reading
from harness.watch.procstat import process_of

if TYPE_CHECKING:
    from harness.evidence import Case, ProcessSample, Sample
    from harness.findings import Diagnosis

# What judging and writing may take, and how much of the deadline a second look needs.
_RESERVE_SECONDS = 1.0
_SECOND_LOOK_SECONDS = 2.5
_NATIVE_HELPS = frozenset({"native-spin", "native-wait", "unknown"})
COULD_NOT_TELL = 3

_EPILOG = """\
It only looks: it stops nothing, writes nothing into the process, and leaves it running as it was. For its
locals it pauses the process for some milliseconds a sample; --no-locals never does.

exit status: 0 it progresses (healthy, slow); 1 it does not (hung, stopped, exited); 2 usage, or no such
process; 3 could not tell.

examples:
  harness diagnose 4711
  harness diagnose 4711 --json | jq .verdict
  harness diagnose $(pgrep -of torchrun) --html report.html --out case/"""


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "diagnose",
        help="why a process does not move: state, cause, the line to look at",
        description="Say why a training process does not move, or that it does: state, cause, "
        "line, evidence.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pid", type=_pid, metavar="PID", help="its process id, or that of its launcher")
    parser.add_argument("--json", action="store_true", help="one JSON document (harness.diagnosis/1)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report of one file")
    parser.add_argument("--markdown", action="store_true", help="Markdown, for an issue")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the evidence; see `harness explain`")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="its run directory, where its environment cannot be read"
    )
    parser.add_argument("--samples", type=_count, default=4, metavar="N", help="how often to look (4)")
    parser.add_argument(
        "--duration", type=_seconds, default=1.2, metavar="SECONDS", help="over how long (1.2)"
    )
    parser.add_argument("--no-locals", action="store_true", help="never pause the process; says less")
    parser.add_argument(
        "--native", choices=("auto", "always", "never"), default="auto", help="frames of C code too (auto)"
    )
    parser.add_argument(
        "--deadline", type=_seconds, default=15.0, metavar="SECONDS", help="never longer (15)"
    )


def run(args: argparse.Namespace) -> int:
    """Look, judge, show."""
    _guard(args)
    problem = _problem(args.pid)
    if problem is not None and problem[1] == UsageError.exit_status:
        return _refuse(args, *problem)
    from harness import bundle
    from harness.rules import diagnose

    case = _look(args)
    diagnosis = diagnose(case)
    if args.out is not None:
        bundle.save(case, args.out)
    if problem is not None and diagnosis.verdict.state == "unknown":
        show(case, diagnosis, args, error=problem[0])
        return COULD_NOT_TELL
    ended = diagnosis.verdict.cause == "exited" and not case.processes
    show(
        case,
        diagnosis,
        args,
        error=f"process {args.pid} ended while we looked" if ended else _foreign(case, diagnosis),
    )
    return diagnosis.exit_status


def show(case: Case, diagnosis: Diagnosis, args: argparse.Namespace, *, error: str | None = None) -> None:
    """Print a Diagnosis as asked."""
    from harness.render import as_json, html, markdown, terminal
    from harness.render.text import single_line

    if getattr(args, "html", None) is not None:
        _write(args.html, html.page(case, diagnosis))
    if args.json:
        document = as_json.document(case, diagnosis)
        print(as_json.text(as_json.error_document(args.pid, error, document) if error else document))
        return
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    if getattr(args, "markdown", False):
        lines = markdown.lines(case, diagnosis)
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        lines = terminal.screen(case, diagnosis, width=width, colour=colour)
    if error:
        lines = [*textwrap.wrap(single_line(error), max(30, width), break_on_hyphens=False), "", *lines]
    print("\n".join(lines).encode("utf-8", "backslashreplace").decode("utf-8"))


def _look(args: argparse.Namespace) -> Case:
    from harness.collect.case import Options, collect

    started = time.monotonic()
    budget = max(0.5, args.deadline - _RESERVE_SECONDS)
    options = Options(
        samples=args.samples,
        interval_seconds=args.duration / max(1, args.samples - 1),
        blocking=not args.no_locals,
        native=args.native == "always",
    )
    run_dir = args.run_dir.resolve() if args.run_dir is not None else None
    case = collect(args.pid, run_dir=run_dir, deadline_seconds=budget, options=options)
    left = budget - (time.monotonic() - started)
    if args.native == "auto" and not args.no_locals and left >= _SECOND_LOOK_SECONDS and case.processes:
        from harness.rules import diagnose

        if _asks_for_native(diagnose(case)):
            again = dataclasses.replace(options, samples=2, native=True, gpu=False, interval_seconds=0.5)
            second = collect(args.pid, run_dir=run_dir, deadline_seconds=left - 0.2, options=again)
            return joined(case, second, time.monotonic() - started)
    return case


def _asks_for_native(diagnosis: Diagnosis) -> bool:
    """Whether C frames may tell more, or prove the verdict wrong."""
    verdict = diagnosis.verdict
    if verdict.cause == "slow-progress" and verdict.confidence < 0.7:
        return True
    return verdict.cause in _NATIVE_HELPS and verdict.blame is not None


def joined(first: Case, second: Case, took_seconds: float) -> Case:
    """One Case with the samples of both looks, in the first one's time."""
    offset = second.taken_at_seconds - first.taken_at_seconds
    return dataclasses.replace(
        first,
        samples=(*first.samples, *(_later(each, offset) for each in second.samples)),
        took_seconds=took_seconds,
    )


def _later(sample: Sample, offset: float) -> Sample:
    def shifted(process: ProcessSample) -> ProcessSample:
        def later(piece: Any) -> Any:
            if isinstance(piece, Missing):
                return piece
            return dataclasses.replace(piece, at_seconds=piece.at_seconds + offset)

        return dataclasses.replace(
            process,
            activity=later(process.activity),
            io=later(process.io),
            threads=later(process.threads),
            stacks=later(process.stacks),
        )

    return dataclasses.replace(
        sample,
        at_seconds=sample.at_seconds + offset,
        processes=tuple(shifted(each) for each in sample.processes),
    )


def _problem(pid: int) -> tuple[str, int] | None:
    """What stands in the way of looking at this pid, and the exit status that goes with it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        uid = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116 - no Path semantics wanted
    except (FileNotFoundError, ProcessLookupError):
        return f"no process {pid}: it has ended, or never was", UsageError.exit_status
    except (OSError, IndexError) as error:
        return f"process {pid} cannot be read: {error}", COULD_NOT_TELL
    whole = process_of(pid)
    if whole != pid:
        return f"{pid} is a thread of process {whole}: harness diagnose {whole}", UsageError.exit_status
    if int(fields[6]) & 0x00200000:
        return f"process {pid} is a kernel thread: there is no program of yours in it", COULD_NOT_TELL
    if os.geteuid() not in (0, uid):
        message = (
            f"process {pid} belongs to uid {uid}, we are uid {os.geteuid()}: run as that user, or as root"
        )
        return message, COULD_NOT_TELL
    return None


def _foreign(case: Case, diagnosis: Diagnosis) -> str | None:
    """One line for a process that is no Python, where nothing else could be told."""
    if diagnosis.verdict.state != "unknown":
        return None
    process = case.process(case.target.pid)
    stacks = [each.stacks for sample in case.samples for each in sample.processes]
    if process is None or any(isinstance(each, Reading) for each in stacks):
        return None
    why = next((each.detail for each in stacks if isinstance(each, Missing)), "no stack was seen")
    name = process.executable.value.rsplit("/", 1)[-1] if isinstance(process.executable, Reading) else ""
    if why.startswith("not a Python") and re.match(r"python|pypy", name):
        return f"process {process.pid} is {name}, a Python that py-spy does not know: pip install -U py-spy"
    # What would open a door that is closed stands in the answer itself.
    return f"process {process.pid} ({process.name}) shows no Python stack: {why.partition('. ')[0]}"


def _refuse(args: argparse.Namespace, message: str, status: int) -> int:
    if args.json:
        from harness.render import as_json

        print(as_json.text(as_json.error_document(args.pid, message)))
    else:
        print(f"harness diagnose: {message}", file=sys.stderr)
    return status


def _guard(args: argparse.Namespace) -> None:
    """End at the deadline whatever happens: the promise holds even where the kernel does not answer."""

    def end() -> None:
        time.sleep(args.deadline)
        message = f"no answer within {args.deadline:g} s: what was seen is lost. A longer --deadline may help"
        line = (
            f'{{"schema": "harness.diagnosis/1", "pid": {args.pid}, "error": "{message}"}}\n'
            if args.json
            else ""
        )
        os.write(1 if line else 2, (line or f"harness diagnose: {message}\n").encode())
        os._exit(COULD_NOT_TELL)

    threading.Thread(target=end, daemon=True, name="deadline").start()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise HarnessError(f"cannot write {path}: {error.strerror}", remedy="Give another file") from None


def _pid(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no process id")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 50:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of samples between 1 and 50")
    return int(text)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds between 0.1 and 3600")
    return found
