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

# Healthy and slow programs that stand as those of a family do, and must not get its causes.
LOOK_ALIKES = {
    "asynchronous": ("async_steps", "async_timers", "server"),
    "children": ("child_packs", "child_steps"),
    "compiling": ("child_packs", "still_importing"),
    "exits": ("uploads_at_exit",),
    "files": ("short_file_locks", "polls_for_rollouts"),
    "forks": ("forked_child_steps",),
    "locks": ("contended_lock",),
    "native": ("long_eval", "collects_garbage"),
    "pipes": ("reads_lines",),
    "pressure": ("within_its_limit",),
    "queues": ("busy_worker", "slow_producer"),
    "ranks": ("rank_saves", "slow_rank"),
    "sleeps": ("rests_between_batches", "retries_then_goes_on", "paced_callbacks"),
    "sockets": ("dripping_socket",),
    "spins": ("slow_loop", "hashes_strings", "worklist", "burns_until_a_moment"),
    "states": ("saves_model", "writes_checkpoint"),
    "workers": ("loader_slow_items",),
}


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


def test_every_family_of_victims_has_look_alikes_that_move():
    programs = {path.stem: path for path in zoo.programs() if path.parent.name == "healthy"}
    families = {path.parent.name for path in zoo.programs()} - {"healthy", "m7c"}
    assert families - set(LOOK_ALIKES) == set()
    for name in {name for names in LOOK_ALIKES.values() for name in names}:
        assert set(_several(zoo.truth(programs[name])["state"])) <= {"healthy", "slow"}


def test_every_program_has_a_recorded_case():
    recorded = {
        f"{path.parent.parent.name}/{path.parent.name}"
        for path in (REPOSITORY / "tests" / "cases").glob("*/*/case.json")
    }
    assert {zoo.name(path) for path in zoo.programs()} - recorded == set()


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
