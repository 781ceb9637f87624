"""Waiting for descriptors: whatever their number, never longer than asked for."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from harness.supervise.waiting import wait_readable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def high() -> Iterator[socket.socket]:
    """A socket with a number that select cannot take, and something to read in it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2048:
        if hard != resource.RLIM_INFINITY and hard < 2048:
            pytest.skip(f"at most {hard} descriptors here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    number = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD_CLOEXEC, 1500)
    with ours, theirs, socket.socket(fileno=number) as raised:
        yield raised
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_descriptor_beyond_1024_is_waited_for(high: socket.socket) -> None:
    assert high.fileno() >= 1500
    wait_readable([high], 60.0)
    assert high.recv(1) == b"x"


def test_the_deadline_holds_also_where_it_lies_in_the_past() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as file, os.fdopen(writer, "wb"):
        wait_readable([file], 0.01)
        wait_readable([file], -1.0)
