"""The same program, started otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.variants.places import ENTRY, tail

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.support.variants.program import Program


def under(launcher: str, count: int) -> Callable[[Program, random.Random], Program | None]:
    """So many ranks under a launcher; where the victim has ranks, as many as it says."""

    def change(program: Program, chance: random.Random) -> Program | None:
        # Ranks that start ranks are another program.
        starts_ranks = "torchrun" in program.truth or (
            program.name.startswith("ranks/") and "ranks" not in program.truth
        )
        # Of two in one folder one would get the file, or the terminal, and the other would wait for it.
        shared = program.truth.get("stdin") or program.says(r"open\('\w+\.lock")
        if starts_ranks or (shared and count > 1):
            return None
        ranks = program.truth.get("ranks", 0)
        if ranks and (launcher, count) != ("torchrun", 2):
            return None
        ready = program.truth.get("ready", 1) if ranks else count
        if launcher == "launcher":
            return program.told(ranks=count, ready=ready)
        number = str(ranks or count)
        return program.told(ranks=0, torchrun=["--standalone", "--nproc-per-node", number], ready=ready)

    return change


def started(how: str) -> Callable[[Program, random.Random], Program | None]:
    """By a shell script, as a module, by a program that is no Python, by being imported."""

    def change(program: Program, chance: random.Random) -> Program | None:
        if how == "program" and program.truth.get("stdin"):
            return None
        if how == "import" and ("torchrun" in program.truth or "ranks" in program.truth):
            return None
        if how == "import" and program.says("__name__|multiprocessing|num_workers"):
            return None
        return program.told(started=how)

    return change


def spawned(program: Program, chance: random.Random) -> Program | None:
    """Ranks as torch.multiprocessing.spawn starts them: their environment does not show from outside."""
    ranks = program.truth.get("ranks", 0)
    if not ranks:
        return None
    changed = tail(
        program,
        "import socket as _socket\nimport torch.multiprocessing as _spawning\n"
        "with _socket.socket() as _free:\n    _free.bind(('127.0.0.1', 0))\n"
        "    _port = _free.getsockname()[1]\n"
        f"_spawning.spawn({ENTRY}, args=(_port,), nprocs={ranks})",
        arguments="rank, port",
        before="import os as _os\n_os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), "
        f"WORLD_SIZE='{ranks}', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))",
    )
    return changed.told(ranks=0) if changed is not None else None
