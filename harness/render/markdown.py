"""A Diagnosis as Markdown, to paste into an issue.

Pure; whatever came from the target stands in code, with its backticks replaced. Not covered: HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.render import tree
from harness.render.terminal import HEADINGS, code_lines, link_text, pages
from harness.render.text import single_line
from harness.rules.view import View

if TYPE_CHECKING:
    from harness.evidence import Case
    from harness.findings import Diagnosis

_SPECIAL = str.maketrans({each: f"\\{each}" for each in "\\`*_[]<>#|!"})


def lines(case: Case, diagnosis: Diagnosis) -> list[str]:
    """The report."""
    verdict = diagnosis.verdict
    shown = [
        f"### {HEADINGS[verdict.state]}: {verdict.cause}",
        "",
        _text(verdict.summary),
        "",
        f"- process: {_code(f'pid {diagnosis.pid} · {diagnosis.headline}')}",
        f"- confidence: {verdict.confidence:.0%}, after {diagnosis.took_seconds:.1f} s",
    ]
    blamed = verdict.blame
    if blamed is not None:
        shown.append(
            f"- look at: {_code(f'{blamed.file}:{blamed.line} in {blamed.function} ({blamed.thread})')}"
        )
        code = code_lines(case, verdict)
        if code:
            shown += ["", "````text", *(each.replace("````", "'```") for each in code), "````"]
    for title, items in (("Because", verdict.evidence), ("Next", verdict.next_steps)):
        if items:
            shown += ["", f"**{title}**", "", *(f"- {_text(each)}" for each in items)]
    if len(verdict.chain) > 1:
        shown += [
            "",
            "**Chain**",
            "",
            *(f"{at}. {_code(link_text(each))}" for at, each in enumerate(verdict.chain, 1)),
        ]
    if diagnosis.notes:
        shown += ["", "**Also**", "", *(f"- {each.cause}: {_text(each.summary)}" for each in diagnosis.notes)]
    if diagnosis.not_checked:
        shown += ["", "**Not checked**", ""]
        shown += [f"- {each.what}: {each.reason} ({_text(each.detail)})" for each in diagnosis.not_checked]
    if found := pages(diagnosis):
        shown += ["", f"More: {', '.join(map(_code, found))}"]
    stacks = [single_line_keeping_indent(each) for each in tree.lines(tree.merged(View(case)))]
    if stacks:
        shown += ["", "<details><summary>Stacks</summary>", "", *_block(stacks[:400]), "", "</details>"]
    return shown


def single_line_keeping_indent(text: str) -> str:
    """One line of code, made harmless, with its indent."""
    return " " * (len(text) - len(text.lstrip())) + single_line(text)


def _text(text: str) -> str:
    return single_line(text).translate(_SPECIAL)


def _code(text: str) -> str:
    return f"`{single_line(text).replace('`', chr(39))}`"


def _block(text: list[str]) -> list[str]:
    return ["````text", *(single_line_keeping_indent(each).replace("````", "'```") for each in text), "````"]
