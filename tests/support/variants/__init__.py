"""Variants of the zoo's programs, made by a program: the verdict on each must be that on its original.

    python -m tests.support.variants FOLDER [NAME...]     writes those whose name holds one of the words

Each changes how a program is written or started and nothing of why it hangs: names, imports, calls around the
hang, the thread or process that it is in, what starts it. Where the words of the design change the truth (a
main thread that works on is healthy; a caller put between is the deepest frame) it is derived here, by rule.
A variant is a file with its own TRUTH and is run like any victim. The same seed gives the same files.

Not covered: other causes (those are victims of their own).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.variants.calls import passed_on, wrapped
from tests.support.variants.names import aliased, other_names, renamed
from tests.support.variants.places import MOVED, moved
from tests.support.variants.program import Program, load, write
from tests.support.variants.starts import spawned, started, under

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["SEED", "VARIANTS", "Program", "Variant", "load", "make", "variants_of", "write"]

SEED = 20261123
_SEVERAL = frozenset(
    ("fork", "spawn", "pool", "process-pool", "launcher-2", "torchrun-2", "combined-1", "combined-2")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to change a program; `make` gives None where it does not apply."""

    name: str
    make: Callable[[Program, random.Random], Program | None]
    needs: tuple[str, ...] = ()


def variants_of(path: Path, *, seed: int = SEED) -> Iterator[tuple[str, Program]]:
    """Every variant that applies to a victim."""
    for variant in VARIANTS:
        made = make(path, variant, seed=seed)
        if made is not None:
            yield variant.name, made


def make(path: Path, variant: Variant, *, seed: int = SEED) -> Program | None:
    program = load(path)
    if program.truth.get("variants") is False:
        return None  # it starts what lies beside it
    made = variant.make(program, random.Random(f"{seed}/{program.name}/{variant.name}"))
    if made is None:
        return None
    needs = tuple(dict.fromkeys((*made.truth.get("needs", ()), *variant.needs)))
    made = made.told(needs=list(needs)) if needs else made
    # READY may be one process's word while others still start.
    settle = max(0.5, made.truth.get("settle_seconds", 0.0))
    return made.told(settle_seconds=settle) if variant.name in _SEVERAL else made


def combined(program: Program, chance: random.Random) -> Program | None:
    """One of each sort, by chance."""
    chains = (
        (renamed, other_names),
        (aliased,),
        (wrapped("call"), wrapped("partial"), wrapped("method"), wrapped("decorator")),
        tuple(moved(where) for where in MOVED if where != "thread-beside"),
        (under("launcher", 1), under("launcher", 2), *map(started, ("shell", "module", "program"))),
    )
    for several in chains:
        program = chance.choice(several)(program, chance) or program
    return program


VARIANTS: tuple[Variant, ...] = (
    Variant(name="renamed", make=renamed),
    Variant(name="other-names", make=other_names),
    Variant(name="aliased", make=aliased),
    Variant(name="in-call", make=wrapped("call")),
    Variant(name="in-partial", make=wrapped("partial")),
    Variant(name="in-method", make=wrapped("method")),
    Variant(name="in-decorator", make=wrapped("decorator")),
    Variant(name="in-context", make=wrapped("context")),
    Variant(name="passed-on", make=passed_on),
    Variant(name="thread", make=moved("thread")),
    Variant(name="thread-polled", make=moved("thread-polled")),
    Variant(name="thread-class", make=moved("thread-class")),
    Variant(name="thread-beside", make=moved("thread-beside")),
    Variant(name="event", make=moved("event")),
    Variant(name="queue-worker", make=moved("queue-worker")),
    Variant(name="executor", make=moved("executor")),
    Variant(name="executor-map", make=moved("executor-map")),
    Variant(name="thread-pool", make=moved("thread-pool")),
    Variant(name="to-thread", make=moved("to-thread")),
    Variant(name="fork", make=moved("fork")),
    Variant(name="spawn", make=moved("spawn")),
    Variant(name="pool", make=moved("pool")),
    Variant(name="process-pool", make=moved("process-pool")),
    Variant(name="launcher-1", make=under("launcher", 1)),
    Variant(name="launcher-2", make=under("launcher", 2)),
    Variant(name="torchrun-1", make=under("torchrun", 1), needs=("torch",)),
    Variant(name="torchrun-2", make=under("torchrun", 2), needs=("torch",)),
    Variant(name="shell", make=started("shell")),
    Variant(name="module", make=started("module")),
    Variant(name="program", make=started("program")),
    Variant(name="import", make=started("import")),
    Variant(name="mp-spawn", make=spawned, needs=("torch",)),
    Variant(name="combined-1", make=combined),
    Variant(name="combined-2", make=combined),
)
