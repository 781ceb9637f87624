"""GPUs beside the trainer: a child of ours asks NVML, again and again, and is killed when it does not answer.

`poll` never waits. One child for the whole run: an interpreter started for each reading would cost more than
all else that the harness does. Without a driver, or without the binding to it, no child is started a second
time. A driver that does not answer is asked again less and less often; meanwhile there is no reading, for
an old one would be taken for the truth.

Not here: what is asked (`collect.gpu`), and GPUs as evidence in a Case (`collect.case`).
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from harness import codec
from harness.collect import gpu
from harness.collect.deadline import python_module
from harness.errors import RecordError
from harness.evidence import Missing, Reading
from harness.snapshot import GpuReading

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from harness.clock import Clock
    from harness.evidence import Gpu, Piece

    T = TypeVar("T")

COLLECTOR = "gpus"
EVERY_SECONDS = 10.0
# A first answer takes as long as the driver takes to wake up, with eight GPUs some seconds.
DEADLINE_SECONDS = 15.0
_LONGEST_PAUSE_SECONDS = 600.0
_MAX_ANSWER_BYTES = 2**20
# Computing devices of other makers: where one is there, "no NVIDIA driver" does not mean "cpu".
_OTHERS = ("/dev/kfd", "/dev/accel*", "/dev/dri/renderD*", "/dev/neuron*", "/dev/davinci*", "/dev/hl*")


class GpuWatch:
    """What NVML last said."""

    def __init__(
        self,
        *,
        clock: Clock,
        every_seconds: float = EVERY_SECONDS,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._clock = clock
        self._every, self._deadline = every_seconds, deadline_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._dying: list[subprocess.Popen[bytes]] = []
        self._answer = bytearray()
        self._asked_at: float | None = None
        self._ask_at = clock.monotonic()
        self._failed_in_a_row = 0
        self._readings: tuple[GpuReading, ...] = ()
        self._over = not gpu.driver_is_there()
        self._device = "cpu" if self._over and not any(map(glob.glob, _OTHERS)) else ""
        self.errors = 0  # readings that failed; a machine without a driver is no failure

    @property
    def readings(self) -> tuple[GpuReading, ...]:
        """What is known of each GPU now; nothing where the driver did not answer."""
        return self._readings

    def poll(self) -> None:
        """Ask, or take the answer, if it is time."""
        self._dying = [each for each in self._dying if each.poll() is None]
        if not self._over:
            now = self._clock.monotonic()
            if self._asked_at is not None:
                self._hear(now, self._asked_at)
            elif now >= self._ask_at:
                self._ask(now)

    def device(self, pids: Iterable[int]) -> str:
        """The kind of device that these processes compute on; empty where that cannot be told.

        What was known once stays: a process that has ended is on no GPU any more.
        """
        asked = set(pids)
        names = {each.name for each in self._readings if asked & set(each.pids)}
        if names:
            self._device = ", ".join(sorted(names))
        return self._device

    def close(self) -> None:
        """Ask no more."""
        self._over = True
        self._let_go()
        for each in self._dying:
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.wait(timeout=0.5)

    def _ask(self, now: float) -> None:
        try:
            if self._child is None:
                self._child = _start()
            assert self._child.stdin is not None
            self._child.stdin.write(b"\n")
        except OSError:
            self._failed(now)
            return
        self._asked_at = now

    def _hear(self, now: float, asked_at: float) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        # First what is there, then the deadline: we may have been stopped ourselves meanwhile.
        with contextlib.suppress(BlockingIOError):
            while not self._answer.endswith(b"\n"):
                new = os.read(self._child.stdout.fileno(), 65536)
                if not new or len(self._answer) > _MAX_ANSWER_BYTES:
                    self._failed(now)
                    return
                self._answer += new
        if self._answer.endswith(b"\n"):
            self._asked_at, self._ask_at = None, max(now, asked_at + self._every)
            self._take(bytes(self._answer), now)
            self._answer.clear()
        elif now - asked_at > self._deadline:
            self._failed(now)

    def _take(self, line: bytes, now: float) -> None:
        try:
            answer: Piece[tuple[Gpu, ...]] = codec.loads(gpu.ANSWER, line)
        except RecordError:
            self._failed(now)
            return
        if isinstance(answer, Reading):
            self._readings = tuple(map(_reading, answer.value))
            self._failed_in_a_row = 0
        elif answer in (gpu.NO_DRIVER, gpu.NO_BINDING):
            self.close()
        else:
            self._failed(now)

    def _failed(self, now: float) -> None:
        """Begin anew with another child, after a pause that grows."""
        self.errors += 1
        self._readings = ()
        self._let_go()
        self._asked_at = None
        self._answer.clear()
        self._ask_at = now + min(self._every * 2**self._failed_in_a_row, _LONGEST_PAUSE_SECONDS)
        self._failed_in_a_row = min(self._failed_in_a_row + 1, 10)

    def _let_go(self) -> None:
        """Kill the child, without waiting: inside a sick driver even that takes its time."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._dying.append(child)


def _start() -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        python_module("harness.collect.gpu", "--serve"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
        cwd="/",  # the user's folder may go away
    )
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    return child


def _reading(found: Gpu) -> GpuReading:
    processes = _known(found.processes) or ()
    return GpuReading(
        gpu=str(found.index),
        name=found.name,
        used_bytes=_known(found.memory_used_bytes),
        total_bytes=_known(found.memory_total_bytes),
        utilization_ratio=_known(found.utilization_ratio),
        power_watts=_known(found.power_watts),
        pids=tuple(each.pid for each in processes),
    )


def _known(piece: Piece[T]) -> T | None:
    return None if isinstance(piece, Missing) else piece.value
