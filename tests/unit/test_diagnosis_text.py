"""Control characters in what a target tells are shown, not obeyed, by every renderer."""

from __future__ import annotations

import dataclasses
import json

from harness.evidence import Local, Reading, Source
from harness.render import as_json, html, markdown, terminal
from harness.rules import diagnose
from tests.support.cases import PID, case, frame, process, process_sample, sample, stack

EVIL = "\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>\u202e`#`"


def hostile():
    local = Local(name="t", argument=False, address=1, kind="number", value="12")
    frames = (frame(function=f"fetch{EVIL}", file=f"/home/u/{EVIL}.py", line=3, locals=(local,)),)
    samples = [
        sample(process_sample(at=at, stacks=(stack(*frames, name=f"worker{EVIL}"),)), at=at)
        for at in (0.0, 1.0, 2.0)
    ]
    source = Source(file=f"/home/u/{EVIL}.py", first_line=1, lines=(EVIL,) * 5, modified_wall_seconds=0.0)
    named = process(PID, command=Reading(value=("python", EVIL)), name=EVIL)
    return dataclasses.replace(case(*samples, processes=(named,)), sources=(source,))


def test_no_renderer_lets_through_what_a_terminal_or_a_browser_would_obey():
    found = hostile()
    diagnosis = diagnose(found)
    screen = "\n".join(terminal.screen(found, diagnosis))
    report = "\n".join(markdown.lines(found, diagnosis))
    page = html.page(found, diagnosis)
    document = as_json.text(as_json.document(found, diagnosis))
    for text in (screen, report, page, document):
        assert not any(ord(each) < 0x20 and each not in "\n\t" for each in text)
        assert "\x1b" not in text
    assert "\u202e" not in screen + report + page
    assert "<script" not in page
    json.loads(document)


def test_colour_is_only_where_it_is_asked_for():
    found = hostile()
    assert "\x1b[1;" in terminal.screen(found, diagnose(found), colour=True)[0]


def test_a_file_stands_alone():
    found = hostile()
    page = html.page(found, diagnose(found))
    assert "src=" not in page
    assert "href=" not in page
    assert "default-src 'none'" in page
