"""What `harness diagnose` gets right, how long it takes, and what it costs the process that it looks at.

    python benchmarks/zoo.py [zoo] [variants] [time] [pause] [kill] [--write] [--quick] [--only WORD…]

`zoo` runs every victim and look-alike of tests/zoo, and puts `py-spy dump`, `py-spy dump --subprocesses` and
`pystack remote` beside it, on the same processes; `variants` what tests/support/variants makes of them.
With --records FILE each outcome is appended there as it comes, and what already is there is not run again.
Ctrl-C ends a part early: its table tells how many were run. `--quick` takes a selection, the same each time,
some minutes a part. All variants take more than an hour on two cores; --count 500 some ten minutes.

pystack is no dependency of the project: pip install -c constraints.txt 'training-harness[bench]'.
"""

from __future__ import annotations

import itertools
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support import asked, load, parser_of, report, table
from benchmarks.zoo_runs import Record, run_all
from tests.support import variants, zoo
from tests.support.env import clean_env
from tests.support.stepping import stepping
from tests.support.zoo import several_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_LATE_SECONDS = 0.1
_LATE = zoo.ZOO / "torchrun_late.py"


def chosen(args: argparse.Namespace) -> list[Path]:
    return [
        path
        for path in zoo.programs()
        if zoo.missing(path) is None and (not args.only or any(word in zoo.name(path) for word in args.only))
    ]


def part_zoo(args: argparse.Namespace) -> list[str]:
    paths = chosen(args)
    if args.quick:
        paths = paths[::4]
    found = run_all(paths, args, jobs=1, beside=True)
    lines = [*summary(found, len(paths)), "", *by_cause(found), "", *beside(found)]
    absent = {zoo.name(path): zoo.missing(path) for path in zoo.programs() if zoo.missing(path)}
    if absent:
        lines += ["", "Not run here: " + "; ".join(f"{name} ({why})" for name, why in absent.items()) + "."]
    return lines


def part_variants(args: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="variants-") as folder:
        made: list[tuple[str, Path]] = []
        for path in zoo.programs():
            for name, program in variants.variants_of(path, seed=args.seed):
                words = f"{name}/{program.name}"
                if not args.only or any(word in words for word in args.only):
                    made.append((name, variants.write(program, name, Path(folder))))
        made = [(name, path) for name, path in made if zoo.missing(path) is None]
        # Mixed, so that one that is ended early has seen some of everything.
        everything = len(made)
        made = sample(made, min(args.count, 100) if args.quick else args.count, args.seed)
        found = run_all([path for _, path in made], args, jobs=args.jobs, beside=False)
        kinds = {zoo.name(path): name for name, path in made}
    rows = []
    for kind in dict.fromkeys(name for name, _ in made):
        of = [each for each in found if kinds[each.name] == kind and not each.error]
        if of:
            rows.append((kind, len(of), *(sum(each.right(what) for each in of) for what in _WHAT)))
    part = (
        f"{len(made)} of {everything} variants, by chance, of every kind.\n" if len(made) < everything else ""
    )
    return [
        part,
        *summary(found, len(made)),
        "",
        table(("variant", "programs", *_WHAT), rows),
        "",
        *by_cause(found),
    ]


def sample(made: list[tuple[str, Path]], count: int, seed: int) -> list[tuple[str, Path]]:
    """So many, every kind of variant among them."""
    chance = random.Random(seed)
    chance.shuffle(made)
    kinds: Counter[str] = Counter()
    ranked = []
    for name, path in made:
        kinds[name] += 1
        ranked.append((kinds[name], name, path))
    return [(name, path) for _, name, path in sorted(ranked, key=lambda each: each[:2])[:count]]


_WHAT = ("state", "cause", "blame", "facts")


def summary(found: list[Record], count: int) -> list[str]:
    ran = [each for each in found if not each.error]
    if not ran:
        return ["Nothing ran."]
    healthy = [each for each in ran if each.progresses]
    rest = [each for each in ran if not each.progresses]
    hung = [each for each in healthy if each.state in ("hung", "stopped", "exited")]
    three = [each for each in ran if all(each.right(what) for what in ("state", "cause", "blame"))]
    seconds = [each.seconds for each in ran]
    rows: list[tuple[object, ...]] = [
        ("programs run", f"{len(ran)} of {count}"),
        *((f"{what} right", _share(each.right(what) for each in ran)) for what in _WHAT),
        ("state, cause and blamed line right", _share(each in three for each in ran)),
        ("progressing ones called hung (false alarms)", f"{len(hung)} of {len(healthy)}"),
        (
            "hung ones called progressing",
            f"{sum(e.state in ('healthy', 'slow') for e in rest)} of {len(rest)}",
        ),
        ("abstentions (unknown)", sum(each.state == "unknown" for each in ran)),
        ("seconds to the answer, median (most)", f"{statistics.median(seconds):.1f} ({max(seconds):.1f})"),
    ]
    lines = [table(("", "value"), rows)]
    wrong = [each for each in ran if each.wrong]
    lines += ["", *(f"- {each.name}: {'; '.join(each.wrong)}" for each in wrong)] if wrong else []
    errors = [each for each in found if each.error]
    return lines + (["", *(f"- {each.name} did not run: {each.error}" for each in errors)] if errors else [])


def by_cause(found: list[Record]) -> list[str]:
    """Precision and recall. Where several causes are right, the one that was said was the wanted one."""
    ran = [each for each in found if not each.error]
    wanted: Counter[str] = Counter()
    said: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    for each in ran:
        right = several_of(each.expected["cause"])
        want = each.cause if each.cause in right else right[0]
        wanted[want] += 1
        said[each.cause] += 1
        hit[want] += want == each.cause
    rows = [
        (
            cause,
            wanted[cause],
            said[cause],
            _ratio(hit[cause], said[cause]),
            _ratio(hit[cause], wanted[cause]),
        )
        for cause in sorted({*wanted, *said})
    ]
    return [table(("cause", "programs", "said", "precision", "recall"), rows)]


def beside(found: list[Record]) -> list[str]:
    ran = [each for each in found if not each.error and each.others]
    blamable = [each for each in ran if each.expected.get("blame")]
    if not blamable:
        return []
    rows = [
        (
            "harness diagnose",
            _share(each.right("blame") for each in blamable),
            _share(each.right("cause") for each in ran),
            f"{statistics.median(each.seconds for each in ran):.2f}",
        )
    ]
    for name in ran[0].others:
        rows.append(
            (
                name,
                _share(each.others[name]["line"] for each in blamable),
                _share(each.others[name]["cause"] for each in ran),
                f"{statistics.median(each.others[name]['seconds'] for each in ran):.2f}",
            )
        )
    absent = {"py-spy dump", "py-spy dump --subprocesses", "pystack remote"} - set(ran[0].others)
    return [
        "On the same processes, one after the other. For `harness diagnose`: the line is the one blamed, the",
        "cause the right one. For the others: the line is anywhere in what they print; so is any word for",
        "a cause.",
        "",
        table(("", "line", "cause", "median s"), rows),
        *([f"\nNot installed here: {', '.join(sorted(absent))}."] if absent else []),
    ]


def part_time(args: argparse.Namespace) -> list[str]:
    rows = []
    names = (
        "silent_peer",
        "two_locks",
        "retries",
        "regex",
        "slow_loop",
        "producer_gone",
        "flock",
        "condition",
    )
    one_process = [path for path in zoo.programs() if path.stem in names]
    seconds = []
    for path in one_process[: 3 if args.quick else None]:
        with zoo.running(path) as pid:
            for _ in range(1 if args.quick else 3):
                seconds.append(zoo.diagnose(pid)[2])
                print(f"{zoo.name(path)}: {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
    rows.append(_timed("one process", seconds, 3.0))
    reason = zoo.missing(_LATE)
    if reason is None:
        seconds, wrong = [], []
        with zoo.running(_LATE) as pid:
            for _ in range(2 if args.quick else 7):
                _, document, took = zoo.diagnose(pid)
                seconds.append(took)
                print(f"torchrun: {took:.2f} s", file=sys.stderr, flush=True)
                wrong += zoo.wrong(zoo.truth(_LATE), document)
            processes = len(document["processes"])
        rows.append(_timed(f"torchrun, 8 ranks, 16 workers ({processes} processes)", seconds, 6.0))
    lines = [table(("default options", "runs", "median s", "worst s", "to reach"), rows)]
    if reason is not None:
        return [*lines, "", f"Without the ranks: {reason}."]
    return [*lines, "", f"Wrong about the ranks: {'; '.join(dict.fromkeys(wrong)) or 'nothing'}."]


def _timed(what: str, seconds: list[float], limit: float) -> tuple[object, ...]:
    median = statistics.median(seconds)
    return what, len(seconds), f"{median:.2f}", f"{max(seconds):.2f}", f"≤ {limit:.0f} s"


def part_pause(args: argparse.Namespace) -> list[str]:
    kinds = ["python"] if zoo.needs.check("torch") else ["python", "torch"]
    count = 3 if args.quick else 10
    rows, worst = [], 0
    for kind in kinds:
        with stepping(kind) as training:
            time.sleep(2.0)
            for diagnosed in (False, True):
                late, lost = [], []
                usual = statistics.median(_lengths(training.moments())[5:])
                for _ in range(count):
                    begin = time.monotonic()
                    if diagnosed:
                        zoo.diagnose(training.pid)
                    else:
                        time.sleep(2.0)
                    time.sleep(0.3)  # the step in which it ended
                    moments = training.moments()
                    over = [
                        length - usual
                        for length, when in zip(_lengths(moments), moments[1:], strict=False)
                        if begin <= when
                    ]
                    late.append(sum(each > _LATE_SECONDS for each in over))
                    print(
                        f"{kind}, {'diagnosed' if diagnosed else 'alone'}: {late[-1]} late", file=sys.stderr
                    )
                    lost.append(max(over, default=0.0))
                rows.append(
                    (
                        f"{kind}, a step of {usual * 1000:.0f} ms, "
                        + ("one diagnosis" if diagnosed else "left alone"),
                        count,
                        f"{statistics.median(late):g} ({max(late)})",
                        f"{statistics.median(lost) * 1000:.0f} ({max(lost) * 1000:.0f})",
                    )
                )
                worst = max(worst, *late) if diagnosed else worst
    return [
        table(
            (
                "a healthy training",
                "times",
                "steps late by > 100 ms, median (most)",
                "most lost by one, ms, median (most)",
            ),
            rows,
        ),
        "",
        f"To reach: at most 5 steps. Most: {worst}.",
    ]


def _lengths(moments: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(moments)]


def part_kill(args: argparse.Namespace) -> list[str]:
    chance, count = random.Random(args.seed), 10 if args.quick else 50
    harmed: list[str] = []
    waited = []
    with stepping() as training:
        usual = zoo.diagnose(training.pid)[2]
        for number in range(count):
            look = subprocess.Popen(
                [sys.executable, "-m", "harness", "diagnose", str(training.pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=clean_env(),
                start_new_session=True,
            )
            moment = chance.uniform(0.0, usual)
            time.sleep(moment)
            look.send_signal(signal.SIGKILL)
            look.wait()
            killed = time.monotonic()
            problem = training.harm()
            waited.append(time.monotonic() - killed)
            if problem:
                harmed.append(f"killed after {moment:.2f} s: {problem}")
            print(f"{number + 1}/{count}: {problem or 'unharmed'}", file=sys.stderr, flush=True)
            if training.process.poll() is not None:
                break
    rows = [
        ("killed with SIGKILL", f"{len(waited)} times, within {usual:.1f} s"),
        (
            "target runs on: alive, neither stopped nor traced, steps",
            f"{len(waited) - len(harmed)} of {len(waited)}",
        ),
        (
            "seconds until that was seen, median (most)",
            f"{statistics.median(waited):.2f} ({max(waited):.2f})",
        ),
    ]
    return [table(("", "value"), rows), "", *(f"- {each}" for each in harmed), "To reach: every time."]


def _share(each: Any) -> str:
    values = list(each)
    return f"{sum(values)} of {len(values)} ({100 * sum(values) / len(values):.1f} %)" if values else "none"


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "—"


PARTS: dict[str, tuple[str, Callable[[argparse.Namespace], list[str]]]] = {
    "zoo": ("Diagnosis: the zoo", part_zoo),
    "variants": ("Diagnosis: variants of the zoo", part_variants),
    "time": ("Diagnosis: seconds to the answer", part_time),
    "pause": ("Diagnosis: what it costs a healthy training", part_pause),
    "kill": ("Diagnosis: killed at random moments", part_kill),
}


def main() -> None:
    parser = parser_of(__doc__, tuple(PARTS))
    parser.set_defaults(ended=False)
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="WORD", help="programs whose name holds a word"
    )
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="keep outcomes there, and go on from them"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="variants at a time (2)")
    parser.add_argument("--count", type=int, default=10**6, metavar="N", help="so many variants, by chance")
    parser.add_argument(
        "--seed", type=int, default=variants.SEED, metavar="N", help="of variants and moments"
    )
    args = asked(parser, tuple(PARTS))
    for part in args.parts:
        title, measure = PARTS[part]
        busy, began = load(), time.monotonic()
        try:
            lines = measure(args)
        except KeyboardInterrupt:
            sys.exit(f"{title}: ended before it had a figure")
        took = f"({busy}; took {(time.monotonic() - began) / 60:.1f} min)"
        report(title, "\n".join([*lines, "", took]), write=args.write and not args.ended)
        if args.ended:
            sys.exit("ended early: nothing was written; --records FILE lets the next run go on from here")


if __name__ == "__main__":
    main()
