"""How much each TCP socket has moved, and since when nothing came: TCP_INFO through the kernel's sock_diag.

It needs no right and pauses nobody, but it tells only of the network namespace it is asked in: a target in
another one has no answer here. Not covered: unix sockets and UDP, of which the kernel counts nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from harness.collect.deadline import NotSeen
from harness.evidence import Missing, Traffic

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from harness.collect.procfs import Proc

# include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301
_INET_DIAG_INFO = 2
_ALL_STATES = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
_MESSAGE_BYTES = 72
_INODE_AT = 68
_ATTRIBUTE = struct.Struct("=HH")
# include/uapi/linux/tcp.h, struct tcp_info: last_data_sent, last_ack_sent, last_data_recv, last_ack_recv in
# milliseconds; later bytes_acked and bytes_received.
_SINCE_AT = 44
_BYTES_AT = 120
_INFO_BYTES = 136
_SECONDS = 0.4


def of_sockets(proc: Proc, pids: Collection[int], inodes: Collection[int]) -> tuple[Traffic, ...]:
    """The TCP sockets with these inodes."""
    if not inodes:
        return ()
    if not any(_same_network(proc, pid) for pid in pids):
        raise NotSeen(Missing(reason="unavailable", detail="the target has a network of its own"))
    return tuple(
        each for family in (socket.AF_INET, socket.AF_INET6) for each in _ask(family) if each.inode in inodes
    )


def parse(data: bytes) -> Iterator[Traffic]:
    """The answers in one datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        if kind == _SOCK_DIAG_BY_FAMILY:
            found = _one(data[at + _HEADER.size : at + length])
            if found is not None:
                yield found
        at += (length + 3) & ~3


def ended(data: bytes) -> bool:
    """Whether a datagram says that there is no more; OSError where the kernel refuses."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind == _NLMSG_ERROR:
            number = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
            raise OSError(number, os.strerror(number))
        if kind == _NLMSG_DONE or length < _HEADER.size:
            return True
        at += (length + 3) & ~3
    return False


def _one(message: bytes) -> Traffic | None:
    if len(message) < _MESSAGE_BYTES:
        return None
    (inode,) = struct.unpack_from("=I", message, _INODE_AT)
    at = _MESSAGE_BYTES
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            return None
        info = message[at + _ATTRIBUTE.size : at + length]
        if kind == _INET_DIAG_INFO and len(info) >= _INFO_BYTES:
            sent, _, received, acknowledged = struct.unpack_from("=4I", info, _SINCE_AT)
            acked_bytes, received_bytes = struct.unpack_from("=2Q", info, _BYTES_AT)
            return Traffic(
                inode=inode,
                received_bytes=received_bytes,
                acknowledged_bytes=acked_bytes,
                since_received_seconds=received / 1000,
                since_sent_seconds=sent / 1000,
                since_acknowledged_seconds=acknowledged / 1000,
            )
        at += (length + 3) & ~3
    return None


def _ask(family: int) -> Iterator[Traffic]:
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ALL_STATES)
    header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(_SECONDS)
        asked.send(header + body)
        while True:
            try:
                data = asked.recv(1 << 17)
            except TimeoutError:
                raise TimeoutError(
                    errno.ETIMEDOUT, "the kernel did not tell of its sockets in time"
                ) from None
            yield from parse(data)
            if ended(data):
                return


def _same_network(proc: Proc, pid: int) -> bool:
    try:
        theirs = proc.path(pid, "ns", "net").stat()
        ours = proc.path("self", "ns", "net").stat()
    except OSError:
        return False
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
