"""Reading ahead: what goes wrong in the thread reaches the consumer, and no wait is without an end."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.support import needs
from tests.support.wait import wait_for

needs.require("numpy")

from nsa.data.meter import TRICKLE_FACTOR, Meter
from nsa.data.readahead import ReadAhead, bounded
from nsa.errors import DataSourceError


def ahead(produce, *, timeout=30.0, progress=None, count=2):
    meter = Meter("a source", timeout)
    return ReadAhead(produce, meter=meter, remedy="Do this", progress=progress, ahead=count), meter


def test_items_come_in_order_and_then_it_ends_again_and_again():
    reading, _ = ahead(lambda: (n for n in range(5)))
    assert list(reading) == [0, 1, 2, 3, 4]
    assert list(reading) == []
    assert reading.close()


def test_it_reads_ahead_but_no_further_than_told():
    read = []

    def produce():
        for n in range(100):
            read.append(n)
            yield n

    reading, _ = ahead(produce, count=3)
    # Three in the queue, and one in the thread's hand.
    wait_for(lambda: len(read) == 4, 10, "the queue fills")
    assert next(reading) == 0
    wait_for(lambda: len(read) == 5, 10, "one more is read")
    assert reading.close()
    assert len(read) == 5


@pytest.mark.parametrize("error", [ValueError("broken row"), KeyboardInterrupt(), MemoryError("no memory")])
def test_what_the_thread_raises_reaches_the_consumer_after_what_it_read(error):
    def produce():
        yield 1
        raise error

    reading, _ = ahead(produce)
    assert next(reading) == 1
    for _ in range(2):
        with pytest.raises(type(error)):
            next(reading)
    assert reading.close()


def test_a_silent_source_is_given_up_and_named_with_the_time_and_the_remedy():
    never = threading.Event()

    def produce():
        yield 1
        never.wait()

    reading, meter = ahead(produce, timeout=0.3)
    assert next(reading) == 1
    with pytest.raises(DataSourceError, match=r"data source a source: no data for 0 s\. Do this"):
        next(reading)
    assert meter.abandoned.is_set()
    assert not reading.close(), "the thread is left behind, and close says so at once"
    never.set()


def test_a_thread_that_dies_without_a_word_does_not_leave_the_consumer_waiting(monkeypatch):
    # A thread can only vanish so if its last words cannot be put: as with no memory for them.
    monkeypatch.setattr(ReadAhead, "_put", lambda self, put, item: False)
    reading, _ = ahead(lambda: iter([1]), timeout=1e9)
    with pytest.raises(DataSourceError, match="ended without a word"):
        next(reading)


def test_close_ends_a_thread_that_waits_for_room_and_closes_its_generator():
    closed = threading.Event()

    def produce():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    reading, _ = ahead(produce)
    next(reading)
    assert reading.close()
    assert closed.is_set()
    with pytest.raises(StopIteration):
        next(reading)


def test_ctrl_c_while_the_thread_is_waited_for_does_not_make_it_ended():
    """Taken for ended, it comes back into an interpreter that is being taken down, which aborts it."""
    go = threading.Event()

    def produce():
        go.wait(30)
        yield 1

    reading = ReadAhead(produce, meter=Meter("a source", 30.0), remedy="")

    def press():
        reading._stop.wait(30)  # by then `close` waits for the thread, or is about to
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    pressing = threading.Thread(target=press)

    def close():
        pressing.start()
        reading.close(30)

    with pytest.raises(KeyboardInterrupt):
        close()
    pressing.join(30)
    assert not reading.close(0.0)
    go.set()
    assert reading.close(30)


def test_movement_is_reported_in_the_consumers_thread_and_standstill_is_not(monkeypatch):
    monkeypatch.setattr("nsa.data.readahead._REPORT_SECONDS", 0.0)
    told = []
    moved, go = threading.Event(), threading.Event()

    def produce():
        meter.downloaded(10)
        moved.set()
        go.wait(30)
        yield 1

    def progress(look):
        told.append((threading.current_thread(), look.downloaded_bytes, look.waiting_seconds))
        if len(told) == 1:
            threading.Timer(0.5, go.set).start()

    meter = Meter("a source", 30.0)
    reading = ReadAhead(produce, meter=meter, remedy="", progress=progress)
    assert moved.wait(10)
    assert next(reading) == 1
    assert len(told) == 1, "half a second of standstill brought no second report"
    thread, size, waiting = told[0]
    assert thread is threading.current_thread()
    assert size == 10
    assert waiting is not None
    assert meter.snapshot().waiting_seconds is None
    assert meter.snapshot().waited_seconds > 0


def test_bounded_returns_raises_and_gives_up():
    assert bounded(lambda: 7, meter=Meter("s", 30.0), remedy="") == 7
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 / 0, meter=Meter("s", 30.0), remedy="")
    never = threading.Event()
    with pytest.raises(DataSourceError, match="no data"):
        bounded(never.wait, meter=Meter("s", 0.2), remedy="")
    never.set()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_limit_counts_from_the_last_movement_or_the_waits_beginning():
    clock = Clock()
    meter = Meter("s", 10.0, clock=clock)
    clock.now = 1000.0
    assert meter.stalled(waiting_since=995.0) is None, "the consumer had not waited before"
    clock.now = 1006.0
    assert meter.stalled(995.0) == "no data for 11 s"
    meter.downloaded(1)
    assert meter.stalled(995.0) is None


def test_bytes_that_trickle_in_without_a_document_are_given_up_too():
    clock = Clock()
    meter = Meter("s", 10.0, clock=clock)
    began = clock.now
    while clock.now - began <= 10.0 * TRICKLE_FACTOR:
        assert meter.stalled(began) is None
        clock.now += 5.0
        meter.downloaded(1)
    assert meter.stalled(began) == "bytes trickle in, but no document for 105 s"
    meter.documents(1, 100)
    assert meter.stalled(began) is None


def test_the_last_refusal_is_said_until_an_answer_or_a_document_comes():
    clock = Clock()
    meter = Meter("s", 10.0, clock=clock)
    meter.refused("503 Service Unavailable")
    clock.now += 11
    assert meter.stalled(100.0) == "no data for 11 s (last: 503 Service Unavailable)"
    assert meter.snapshot().detail == "s: 0 documents, 0 bytes, last: 503 Service Unavailable"
    meter.answered()
    assert meter.snapshot().last_answer is None
