"""The README's screen of a diagnosis, and what of a screen has to stay the same from run to run."""

from __future__ import annotations

import re

from tests.support.env import REPOSITORY


def screen() -> str:
    """The block of the README that begins with the verdict on this run."""
    text = (REPOSITORY / "README.md").read_text()
    found = re.search(r"^    SLOW, not hung .*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    assert found, "the README has no such screen"
    return found[0]


def shape(shown: str) -> list[str]:
    """The words of a screen, without numbers, the code of the moment, places of a machine, and wrapping."""
    shown = shown.partition("unchecked")[0]  # what a machine lacks is its own
    code = re.compile(r"\s{13,}((> )?\s*\d+  |…$)")
    lines = [line for line in shown.splitlines() if not code.match(line)]
    text = re.sub(r"\S*/(?=nsa_attention\.py)", "", " ".join(lines))
    text = re.sub(r"(\d+ min )?\d[\d.,]* (s|min|h|days)\b(?: \d+ (?:s|min)\b)?", "TIME", text)
    return re.sub(r"\d[\d.,]*", "N", text).split()
