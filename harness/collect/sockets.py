"""The sockets of a process: peer, TCP state and queues, from /proc/PID/net (its own network namespace).

Not covered: the far end of a unix socket, which /proc does not tell.
"""

from __future__ import annotations

import ipaddress
import sys
from typing import TYPE_CHECKING, Literal

from harness.evidence import Socket

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from harness.collect.procfs import Proc

# include/net/tcp_states.h
_TCP = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip
# include/uapi/linux/net.h
_UNIX = ("FREE", "UNCONNECTED", "CONNECTING", "CONNECTED", "DISCONNECTING")


def parse_inet(data: bytes, family: Literal["tcp", "tcp6", "udp", "udp6"]) -> Iterator[Socket]:
    """/proc/net/tcp and its kin; lines that do not fit are passed over."""
    for line in data.decode("ascii", "replace").split("\n")[1:]:
        words = line.split()
        if len(words) < 10:
            continue
        state = int(words[3], 16)
        send, _, receive = words[4].partition(":")
        yield Socket(
            inode=int(words[9]),
            family=family,
            local=_address(words[1]),
            peer=_address(words[2]),
            state=_TCP[state] if state < len(_TCP) else f"state {state}",
            receive_queue_bytes=int(receive, 16),
            send_queue_bytes=int(send, 16),
            retransmits=int(words[6], 16),
        )


def parse_unix(data: bytes) -> Iterator[Socket]:
    """/proc/net/unix. A path may hold anything but a line's end."""
    for line in data.decode("utf-8", "surrogateescape").split("\n")[1:]:
        words = line.split(None, 7)
        if len(words) < 7:
            continue
        state = int(words[5], 16)
        yield Socket(
            inode=int(words[6]),
            family="unix",
            local=words[7] if len(words) > 7 else "",
            peer="",
            state=_UNIX[state] if state < len(_UNIX) else f"state {state}",
            receive_queue_bytes=0,
            send_queue_bytes=0,
            retransmits=0,
        )


def _address(text: str) -> str:
    """`0100007F:1F90` is 127.0.0.1:8080: words of 32 bits in the machine's byte order."""
    host, _, port = text.partition(":")
    words = bytes.fromhex(host)
    if sys.byteorder == "little":
        words = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    address = ipaddress.ip_address(words)
    mapped = getattr(address, "ipv4_mapped", None)
    name = str(mapped or address)
    return f"[{name}]:{int(port, 16)}" if ":" in name else f"{name}:{int(port, 16)}"


def of_process(proc: Proc, pid: int, inodes: Collection[int]) -> tuple[Socket, ...]:
    """The sockets with these inodes, as far as /proc/PID/net shows them."""
    if not inodes:
        return ()
    found: list[Socket] = []
    families: tuple[Literal["tcp", "tcp6", "udp", "udp6"], ...] = ("tcp", "tcp6", "udp", "udp6")
    for family in families:
        try:
            data = proc.read(pid, "net", family)
        except FileNotFoundError:
            continue  # a kernel without IPv6
        found += (each for each in parse_inet(data, family) if each.inode in inodes)
    found += (each for each in parse_unix(proc.read(pid, "net", "unix")) if each.inode in inodes)
    return tuple(found)
