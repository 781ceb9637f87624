"""A selection of variants of the zoo's programs gets their verdicts; the benchmark runs all of them."""

from __future__ import annotations

import ast

import pytest

from tests.support import variants, zoo

# One of each sort, of victims whose rule has to look at source, names, threads or processes.
SELECTED = (
    ("other-names", "locks/two_locks"),
    ("aliased", "sleeps/retries"),
    ("in-partial", "queues/producer_gone"),
    ("passed-on", "sockets/http_in_thread"),
    ("thread-beside", "locks/event_never_set"),
    ("executor", "pipes/nobody_writes"),
    ("spawn", "spins/flag_never_set"),
    ("launcher-2", "children/full_pipe"),
    ("shell", "files/flock"),
    ("combined-1", "healthy/slow_loop"),
    ("torchrun-2", "ranks/early_stop"),
    ("mp-spawn", "ranks/absent"),
)
KINDS = {variant.name: variant for variant in variants.VARIANTS}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(
            kind,
            name,
            id=f"{kind}-{name}",
            marks=pytest.mark.needs(*zoo.truth(zoo.ZOO / f"{name}.py").get("needs", ())),
        )
        for kind, name in SELECTED
    ],
)
def test_a_variant_gets_the_verdict_of_its_original(kind, name, tmp_path):
    program = variants.make(zoo.ZOO / f"{name}.py", KINDS[kind])
    assert program is not None
    path = variants.write(program, kind, tmp_path)
    reason = zoo.missing(path)
    if reason:
        pytest.skip(reason)
    found = zoo.outcome(path)
    assert not found.wrong, (found.wrong, path.read_text(), found.document["findings"])


def test_the_same_seed_gives_the_same_programs_and_all_can_be_parsed(tmp_path):
    programs = [path for path in zoo.programs() if path.stem in ("two_locks", "silent_peer", "one_line")]
    made = {}
    for path in programs:
        for kind, program in variants.variants_of(path):
            made[kind, program.name] = variants.write(program, kind, tmp_path).read_text()
            ast.parse(made[kind, program.name])
    again = {
        (kind, program.name): ast.unparse(program.tree)
        for path in programs
        for kind, program in variants.variants_of(path)
    }
    assert all(made[key].rstrip().endswith(again[key].splitlines()[-1]) for key in made)
    assert {kind for kind, _ in made} >= set(KINDS) - {"mp-spawn"}


def test_names_of_libraries_and_of_what_they_call_are_kept(tmp_path):
    victim = tmp_path / "family" / "victim.py"
    victim.parent.mkdir()
    victim.write_text(
        "import queue\n"
        'TRUTH = {"state": "hung", "cause": "queue-wait", "blame": ["get"], "facts": ["items"]}\n'
        "class Reader(queue.Queue):\n    def get(self):\n        pass\n"
        "def get(items):\n    return queue.Queue.get(items)\n"
        "get(items=queue.Queue())\n"
    )
    program = variants.make(victim, KINDS["other-names"])
    text = ast.unparse(program.tree)
    assert "def get(self)" in text
    assert "queue.Queue.get(" in text
    (blamed,), (fact,) = program.truth["blame"], program.truth["facts"]
    assert f"def {blamed}({fact}):" in text
    assert f"{blamed}({fact}=queue.Queue())" in text
