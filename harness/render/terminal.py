"""A Diagnosis as one screen of text, with colours or without.

Pure: lines out, nothing printed. Whatever came from the target is made harmless; lines are wrapped to the
width given. Not covered: whether there is a terminal, and how wide it is (the command).
"""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING

from harness.render.text import single_line
from harness.rules.scene import Scene
from harness.rules.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.evidence import Case, Frame
    from harness.findings import Diagnosis, Finding, Link

HEADINGS = {
    "healthy": "HEALTHY",
    "slow": "SLOW, not hung",
    "hung": "HUNG",
    "stopped": "STOPPED",
    "exited": "EXITED",
    "unknown": "CANNOT TELL",
}
_COLOURS = {"healthy": "32", "slow": "33", "hung": "31", "stopped": "35", "exited": "35", "unknown": "36"}
_LABEL = 12
# Where the loop is the point, its head is shown above the line that it happened to stand at.
_LOOPS = frozenset({"slow-progress", "python-spin"})


def screen(case: Case, diagnosis: Diagnosis, *, width: int = 100, colour: bool = False) -> list[str]:
    """The whole screen."""
    width = max(30, min(width, 140))
    verdict = diagnosis.verdict
    heading = HEADINGS[verdict.state]
    shown = f"\x1b[1;{_COLOURS[verdict.state]}m{heading}\x1b[0m" if colour else heading
    rest = f" · {verdict.cause} · pid {diagnosis.pid} · {single_line(diagnosis.headline)}"
    first = textwrap.wrap(heading + rest, width, max_lines=2, placeholder=" …") or [heading]
    lines = [first[0].replace(heading, shown, 1), *first[1:]]
    lines += _wrap(verdict.summary, width)
    lines.append("")
    if verdict.chain and (len(verdict.chain) > 1):
        lines += _chain(verdict, width)
    lines += _look_at(case, verdict, width)
    lines += _labelled("seen" if verdict.state == "unknown" else "because", verdict.evidence[:6], width)
    lines += _labelled("next", verdict.next_steps[:3], width)
    others = [each for each in diagnosis.findings[1:4] if each.confidence >= 0.5]
    if others:
        lines += ["", *_labelled("perhaps", [f"{each.cause}: {each.summary}" for each in others], width)]
    if diagnosis.notes:
        lines += ["", *_notes(diagnosis, width)]
    if diagnosis.not_checked:
        lines += ["", *_labelled("unchecked", _unchecked(diagnosis)[:5], width)]
    found = pages(diagnosis)
    page = f" · {' '.join(found)}" if found else ""
    lines += ["", *_wrap(f"{diagnosis.took_seconds:.1f} s{page} · everything: --html FILE or --json", width)]
    return lines


def _unchecked(diagnosis: Diagnosis) -> list[str]:
    """What was not looked at; what shares a reason in one line."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for each in diagnosis.not_checked:
        detail = each.detail
        if diagnosis.verdict.state == "unknown" and each.what == "Python stacks":
            detail = detail.partition(". ")[0]  # what would open it stands under "next"
        grouped.setdefault((each.reason, detail), []).append(each.what)
    return [
        f"{', '.join(names)}: {reason.replace('_', ' ')}, {detail}"
        for (reason, detail), names in grouped.items()
    ]


def pages(diagnosis: Diagnosis) -> tuple[str, ...]:
    """The pages of the documentation that say more: on the verdict, and on the notes."""
    verdict = diagnosis.verdict
    named = (f"docs/causes/{verdict.cause}.md",) if verdict.cause != "unknown" else ()
    return (*named, *(("docs/causes/notes.md",) if diagnosis.notes else ()))


def _notes(diagnosis: Diagnosis, width: int) -> list[str]:
    """Each note's name in a column of its own, where there is room."""
    column = max(len(each.cause) for each in diagnosis.notes) + 2
    if width < _LABEL + column + 40:
        return _labelled("also", [f"{each.cause}: {each.summary}" for each in diagnosis.notes], width)
    lines: list[str] = []
    for each in diagnosis.notes:
        for at, part in enumerate(_wrap(each.summary, width - _LABEL - column) or [""]):
            label = "" if lines else "  also"
            lines.append(f"{label:{_LABEL}}{'' if at else each.cause:{column}}{part}".rstrip())
    return lines


def _chain(verdict: Finding, width: int) -> list[str]:
    blamed = verdict.blame
    shown = []
    for each in verdict.chain:
        here = blamed is not None and (each.pid, each.tid, each.line) == (blamed.pid, blamed.tid, blamed.line)
        shown.append(f"{link_text(each)}{'   ← look here' if here else ''}")
    return _labelled("chain", shown, width)


def link_text(link: Link) -> str:
    """One waiter in a line."""
    name = f"rank {link.rank} " if link.rank is not None else f"pid {link.pid} "
    where = (
        f"{link.file.rsplit('/', 1)[-1]}:{link.line} in {link.function}" if link.line else "no line of Python"
    )
    works = link.waits_for.removeprefix("nothing: it ")
    does = works if works != link.waits_for else f"waits for {link.waits_for}"
    return f"{name}{link.thread}  {where}  {does}"


def _look_at(case: Case, verdict: Finding, width: int) -> list[str]:
    blamed = verdict.blame
    if blamed is None:
        return []
    name = blamed.file.rsplit("/", 1)[-1]
    lines = _labelled(
        "look at", [f"{name}:{blamed.line} in {blamed.function} ({blamed.thread}) · {blamed.file}"], width
    )
    return lines + [_cut(f"{' ' * (_LABEL + 2)}{line}", width) for line in code_lines(case, verdict)]


def code_lines(case: Case, verdict: Finding) -> list[str]:
    """The blamed line behind a `>`, its neighbours, and the head of its loop where a loop is the point."""
    blamed = verdict.blame
    if blamed is None:
        return []
    shown = source_window(case, blamed.file, blamed.line, blamed.function, loop=verdict.cause in _LOOPS)
    indent = min((_indent(text) for _, text in shown if text.strip()), default=0)
    digits = len(str(blamed.line))
    lines: list[str] = []
    before = 0
    for number, text in shown:
        if before and number > before + 1:
            lines.append(f"{' ' * (digits + 1)}…")
        mark, code = ">" if number == blamed.line else " ", single_line(text)
        deep = " " * min(_indent(text) - indent, 24) if code else ""
        lines.append(f"{mark} {number:{digits}}  {deep}{code}".rstrip())
        before = number
    return lines


def source_window(
    case: Case, file: str, line: int, function: str, *, loop: bool = False
) -> tuple[tuple[int, str], ...]:
    """The lines around the blamed one, as far as they were recorded; `loop`: and the head of its loop."""
    from harness.evidence import Frame as Evidence

    frame: Frame = Evidence(function=function, file=file, line=line)
    sources = Scene(View(case)).sources
    around = sources.window(frame)
    loops = sources.loops(frame) if loop and around else ()
    if not loops or loops[-1].lineno >= around[0][0]:
        return around
    head = dataclasses.replace(frame, line=loops[-1].lineno)
    return (*sources.window(head, 0), *around)


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _labelled(label: str, texts: Iterable[str], width: int) -> list[str]:
    lines: list[str] = []
    for text in texts:
        for at, part in enumerate(_wrap(text, width - _LABEL) or [""]):
            head = f"  {label}".ljust(_LABEL) if not lines else " " * _LABEL
            lines.append(f"{head}{'  ' if at else ''}{part}".rstrip())
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width`; one that has no blank to break at is cut."""
    return textwrap.wrap(single_line(text), max(16, width - 2), break_on_hyphens=False)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
