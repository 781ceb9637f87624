"""Waits for a peer, a connection or a name server; and servers, which wait by design.

Cause and blame stay with the waiter; who is at the other end is evidence. Not covered: pipes (`outside`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.rules import activity, flow, say
from harness.rules.progress import ends
from harness.rules.view import connected, serves_clients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait


def sockets(scene: Scene) -> Iterator[Finding]:
    """socket-read, socket-write, socket-connect and dns."""
    for chain, wait in ends(scene, "socket-read", "socket-write"):
        cause = wait.kind
        peer, facts = _peer(scene, wait)
        verb = "send anything" if cause == "socket-read" else "take more data"
        working = _works(scene, wait)
        yield say.finding(
            scene,
            chain,
            "slow" if working else "hung",
            cause,
            0.92 if peer else 0.75,
            f"{say.who(wait.thread)} waits for {peer or 'a peer'} to {verb}, at {say.place(wait.user)}"
            + (f"; it works: {working}." if working else "."),
            evidence=[*facts, working],
            next_steps=["look again: the process at the other end is at work"]
            if working
            else [
                f"see whether the peer is alive, and what it does: ss -tinp | grep -A1 {peer}"
                if peer
                else "see whether the peer is alive",
                "give the call a timeout, and retry",
            ],
        )
    for chain, wait in ends(scene, "socket-connect"):
        peer, facts = _peer(scene, wait)
        yield say.finding(
            scene,
            chain,
            "hung",
            "socket-connect",
            0.9 if peer else 0.75,
            f"{say.who(wait.thread)} waits for a connection to {peer or 'a peer'}, at "
            f"{say.place(wait.user)}.",
            evidence=facts,
            next_steps=[
                "see whether the address is right and a firewall drops packets",
                "give the call a timeout",
            ],
        )
    for chain, wait in ends(scene, "dns"):
        facts = [f"it asks {each}" for each in _name_servers(wait.thread.process)]
        yield say.finding(
            scene,
            chain,
            "hung",
            "dns",
            0.88,
            f"{say.who(wait.thread)} waits for a name server, at {say.place(wait.user)}.",
            evidence=facts,
            next_steps=["getent hosts NAME tells whether names resolve", "see /etc/resolv.conf"],
        )


def serving(scene: Scene) -> Iterator[Finding]:
    """healthy: a server that waits for requests, by design."""
    for chain, wait in ends(scene, "serve", "async"):
        listening = serves_clients(wait.thread.process)
        if not listening or (wait.kind == "async" and connected(wait.thread.process, "ESTABLISHED")):
            continue
        yield say.finding(
            scene,
            chain,
            "healthy",
            "healthy",
            0.75,
            "It is a server, and waits for requests, by design.",
            evidence=[f"{listening} listening sockets"],
            next_steps=["if it should have been asked by now, look at who should ask"],
        )


def _works(scene: Scene, wait: Wait) -> str:
    """What shows that the process at a connection's other end advances; nothing unless it is of this tree."""
    own = wait.socket
    if own is None or not own.peer:
        return ""
    for process in scene.view.processes:
        found = process.process.sockets
        sockets = found.value if isinstance(found, Reading) and process is not wait.thread.process else ()
        if any((each.local, each.peer) == (own.peer, own.local) for each in sockets):
            return activity.works(scene, process)
    return ""


def _name_servers(process: ProcessView) -> list[str]:
    found = process.process.sockets
    sockets = found.value if isinstance(found, Reading) else ()
    return sorted({each.peer for each in sockets if each.peer.endswith(":53")})


def _peer(scene: Scene, wait: Wait) -> tuple[str, list[str]]:
    socket = wait.socket
    if socket is None:
        return "", []
    queues = f"{socket.receive_queue_bytes} bytes to read, {socket.send_queue_bytes} to send"
    facts = [f"the socket to {socket.peer or socket.local} is {socket.state}; {queues}"]
    if socket.retransmits:
        facts.append(f"{socket.retransmits} retransmissions: the peer does not acknowledge")
    moved = flow.traffic(scene, wait)
    if moved is not None and wait.kind == "socket-read":
        since = moved.since_received_seconds
        came = "nothing has come" if not moved.received_bytes else "its last bytes came"
        ago = f"for {since:.0f} s" if not moved.received_bytes else f"{since:.0f} s ago"
        facts.append(f"{came} {ago}; {moved.received_bytes:,} bytes in all")
    elif moved is not None and wait.kind == "socket-write":
        facts.append(f"the peer has taken {moved.acknowledged_bytes:,} bytes in all")
    return socket.peer or socket.local, facts
