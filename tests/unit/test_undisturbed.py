"""What the kernel counted between our looks: threads that were put on a CPU, bytes that came."""

from __future__ import annotations

import os
import socket

import pytest

from harness.collect import traffic
from harness.collect.case import Options, collect
from harness.collect.procfs import Proc
from harness.collect.procparse import parse_schedstat
from harness.rules.runs import counted, runs_again
from harness.rules.scene import Scene
from harness.rules.view import View
from tests.support import victims
from tests.support.wait import wait_for


def test_the_schedulers_counts_are_seconds_and_runs():
    counts = parse_schedstat(b"2500000000 7 42\n", 1.0)
    assert (counts.cpu_seconds, counts.queued_seconds, counts.runs) == (2.5, 7e-9, 42)


def test_a_thread_that_waits_for_nothing_never_runs_and_one_that_is_woken_does():
    with victims.running("served_and_unserved") as victim:
        case = collect(victim.pid, options=Options(gpu=False, samples=4, interval_seconds=0.2))
    scene = Scene(View(case))
    target = scene.view.target
    assert target is not None
    waits = next(each for each in target.threads if each.name == "waits")
    assert runs_again(target.main)
    assert runs_again(waits) is False
    often, _, seconds = counted(waits)
    assert often == 0
    assert seconds > 0.3
    assert counted(target.main)[0] > 0


def test_a_sockets_last_byte_and_all_its_bytes_are_told():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
    ):
        other, _ = server.accept()
        other.sendall(b"x" * 1000)
        assert one.recv(2000)
        inode = os.fstat(one.fileno()).st_ino

        def told():
            return [
                each for each in traffic.of_sockets(Proc(), {os.getpid()}, {inode}) if each.received_bytes
            ]

        wait_for(told, what="the kernel to count")
        found = told()[0]
        other.close()
    assert found.received_bytes == 1000
    assert found.since_received_seconds < 60


@pytest.mark.parametrize("data", [b"", b"\0" * 40, b"\xff" * 200, b"\x20\0\0\0\x14\0" + b"\0" * 26])
def test_what_is_no_answer_of_the_kernels_tells_of_no_socket(data):
    assert list(traffic.parse(data)) == []


def test_sockets_that_were_not_asked_for_are_not_told():
    assert traffic.of_sockets(Proc(), {os.getpid()}, set()) == ()
