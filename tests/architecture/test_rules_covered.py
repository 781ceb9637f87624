"""Every rule has a victim, a recorded Case and a page; the gaps are a list that may only shrink."""

from __future__ import annotations

import json
import re

from harness.findings import CAUSES, NOTES
from harness.rules import NOTES as NOTE_RULES
from harness.rules import RULES
from tests.support import zoo
from tests.support.env import REPOSITORY

GAPS = json.loads((REPOSITORY / "tests" / "zoo" / "gaps.json").read_text())


def _several(value):
    return value if isinstance(value, list) else [value]


def test_rules_name_only_causes_of_the_vocabulary_and_all_of_them():
    named = {cause for rule in RULES for cause in rule.causes}
    assert named <= set(CAUSES)
    assert sorted(set(CAUSES) - named) == GAPS["causes without a rule"]
    assert (
        sorted(set(NOTES) - {note for rule in NOTE_RULES for note in rule.causes})
        == GAPS["notes without a rule"]
    )


def test_every_cause_has_a_victim_or_is_a_known_gap():
    shown = {cause for path in zoo.programs() for cause in _several(zoo.truth(path)["cause"])}
    assert shown <= set(CAUSES)
    assert sorted(set(CAUSES) - shown) == GAPS["causes without a victim"]


def test_every_cause_has_a_recorded_case_or_is_a_known_gap():
    recorded = {
        json.loads(path.read_text())["cause"]
        for path in (REPOSITORY / "tests" / "cases").glob("*/*/expected.json")
    }
    assert sorted(set(CAUSES) - recorded) == GAPS["causes without a recorded Case"]


def test_every_cause_has_a_page_or_is_a_known_gap():
    pages = {path.stem for path in (REPOSITORY / "docs" / "causes").glob("*.md")}
    assert sorted(set(CAUSES) - pages) == GAPS["causes without a page"]
    assert pages - set(CAUSES) == {"notes"}


def test_every_note_has_its_part_of_the_page():
    page = (REPOSITORY / "docs" / "causes" / "notes.md").read_text()
    assert sorted(re.findall(r"^## (\S+)$", page, re.MULTILINE)) == sorted(NOTES)


def test_what_was_never_tried_on_the_real_thing_says_so():
    unverified = sorted(cause for rule in RULES if not rule.verified for cause in rule.causes)
    assert unverified == GAPS["rules not verified"]
    for cause in unverified:
        assert "not verified" in (REPOSITORY / "docs" / "causes" / f"{cause}.md").read_text().lower()
