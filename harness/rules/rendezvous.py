"""Ranks, or whole nodes, that never came to the rendezvous at which the others wait.

Not covered: ranks that were there and are elsewhere now (`harness.rules.ranks`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.rules import say
from harness.rules.ranks import dead_ranks, rank_dead, world_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait


def rendezvous(scene: Scene) -> Iterator[Finding]:
    """rendezvous-wait: ranks that never came."""
    for chain in scene.chains:
        wait = next((each for each in chain.waits if each.kind == "rendezvous"), None)
        if wait is None:
            continue
        process = wait.thread.process
        dead, expected = dead_ranks(scene), world_size(scene)
        if dead and expected is not None and len(scene.view.ranks) < expected:
            yield rank_dead(scene, chain, dead)
            continue
        if gone := _was_here(wait, expected, len(scene.view.ranks)):
            yield rank_dead(scene, chain, [gone])
            continue
        if process.role == "launcher":
            yield _nodes(scene, chain, wait)
            continue
        size = expected if expected is not None else "?"
        present = sorted(each.rank for each in scene.view.ranks if each.rank is not None)
        address = (
            f"{process.environment.get('MASTER_ADDR', '?')}:{process.environment.get('MASTER_PORT', '?')}"
        )
        yield say.finding(
            scene,
            chain,
            "hung",
            "rendezvous-wait",
            0.9,
            f"{say.who(wait.thread)} waits at {say.place(wait.user)} for ranks that have not come: "
            f"{size} expected, "
            f"{len(present) or 1} seen here.",
            evidence=[
                (
                    f"expected {size} ranks, present on this machine: "
                    f"{', '.join(map(str, present)) or 'this one'}"
                ),
                f"the store is at {address}",
            ],
            next_steps=[
                (
                    "see whether the other ranks were started, with the same MASTER_ADDR, MASTER_PORT "
                    "and WORLD_SIZE"
                )
            ],
            wait=wait,
        )


def _was_here(wait: Wait, expected: int | None, present: int) -> str:
    """What shows that a rank which is missing has been there: a further group is made out of all ranks."""
    here = wait.thread.process.environment.get("MASTER_ADDR") in ("127.0.0.1", "localhost", "::1")
    further = wait.thread.frame_in("new_group", "split_group", module="torch/distributed/distributed_c10d.py")
    if further is None or not here or expected is None or present >= expected:
        return ""
    return f"{expected - present} of {expected} ranks, which had joined the first group on this machine"


def _nodes(scene: Scene, chain: Chain, wait: Wait) -> Finding:
    """The launcher itself waits: for the launchers of other nodes."""
    process = wait.thread.process
    nodes = _option(process, "nnodes") or "more"
    address = _option(process, "rdzv-endpoint") or ":".join(
        filter(None, (_option(process, "master-addr"), _option(process, "master-port")))
    )
    return say.finding(
        scene,
        chain,
        "hung",
        "rendezvous-wait",
        0.9,
        f"The launcher waits for other nodes, before it starts a rank: {nodes} nodes are expected.",
        evidence=[f"--nnodes {nodes}", f"the rendezvous is at {address}" if address else ""],
        next_steps=["see whether the launcher was started on every node, with the same rendezvous"],
        wait=wait,
    )


def _option(process: ProcessView, name: str) -> str:
    """The value of a launcher's option: `--nnodes=2`, `--nnodes 2`, with - or _ inside."""
    words = [word.replace("_", "-") if word.startswith("-") else word for word in process.command]
    for word, following in zip(words, [*process.command[1:], ""], strict=True):
        key, equals, value = word.partition("=")
        if key.lstrip("-") == name:
            return value if equals else following
    return ""
