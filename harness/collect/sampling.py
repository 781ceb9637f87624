"""Samples of a tree: what changes, several times over; counters from /proc, then Python stacks.

It only looks: the one thing sent to a target is the traceback signal of a trainer that registered it, and
only where stacks were denied. Not covered: what does not change (`facts`), how a stack is read (`ladder`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from harness.collect import records
from harness.collect.deadline import all_of, call, piece
from harness.collect.ladder import Ladder, LadderOptions
from harness.evidence import Missing, ProcessSample, Reading, Sample

if TYPE_CHECKING:
    from harness.collect.look import Look
    from harness.collect.procparse import Scheduled, Stat
    from harness.evidence import Piece, Stacks

_NOT_ASKED = Missing(reason="disabled", detail="no stack was asked for")


class Sampler:
    """Takes the samples of one observation; `ladder` is None where no stack was asked for."""

    def __init__(self, look: Look, members: tuple[Stat, ...], ladder: LadderOptions | None) -> None:
        self._look = look
        self._members = members
        # Stacks may take all the time they get: the rest needs some too.
        self._sampling = look.deadline.before(min(1.5, 0.2 * look.deadline.left()))
        self._ladders = (
            {stat.pid: Ladder(look.proc, stat.pid, stat.start_time_ticks, ladder) for stat in members}
            if ladder is not None
            else {}
        )
        self._mute: set[int] = set()  # asked for their own traceback, and gave none
        self._rested: dict[int, dict[int, Scheduled]] = {}

    def late(self) -> bool:
        """Whether another sample would not be worth its while."""
        return self._sampling.left() < 0.2

    def sample(self, *, last: bool) -> Sample:
        """The whole tree once: first /proc of all processes, then the stacks."""
        at = self._look.deadline.elapsed()
        reads = [functools.partial(self._counters, stat) for stat in self._members]
        width = self._look.width
        counted = all_of(reads, self._look.deadline.within(3.0), width=width, each_seconds=1.0)
        samples = [
            _unread(stat, found) if isinstance(found, Missing) else found
            for stat, found in zip(self._members, counted, strict=True)
        ]
        if self._ladders:
            # The first says what py-spy could not do; from then on the trainer's own traceback stands in.
            own = last or bool(self._look.processes)
            dumps = [functools.partial(self._stacks, each, own) for each in samples]
            found_stacks = all_of(dumps, self._sampling.left(), width=width)
            samples = [
                dataclasses.replace(each, stacks=found)
                for each, found in zip(samples, found_stacks, strict=True)
            ]
        if not last:
            # From here to the next sample nothing of ours pauses a process.
            counts = [functools.partial(self._look.proc.scheduled, stat.pid) for stat in self._members]
            found_counts = all_of(counts, self._look.deadline.within(1.0), width=width, each_seconds=0.3)
            self._rested = {
                stat.pid: found
                for stat, found in zip(self._members, found_counts, strict=True)
                if not isinstance(found, Missing)
            }
        return Sample(
            at_seconds=at,
            processes=tuple(samples),
            records=self._look.heartbeats(),
            log_bytes=self._look.log_bytes(),
        )

    def _counters(self, stat: Stat) -> ProcessSample:
        pid, at = stat.pid, self._look.deadline.elapsed()

        def read_stat() -> Stat:
            return self._look.proc.same(pid, stat.start_time_ticks)

        now = call(read_stat, 1.0)
        if isinstance(now, Missing):
            return _unread(stat, now)
        return ProcessSample(
            pid=pid,
            start_time_ticks=stat.start_time_ticks,
            activity=Reading(value=now.activity, at_seconds=at),
            io=piece(lambda: self._look.proc.io(pid), self._look.deadline, 0.3),
            threads=piece(
                lambda: self._look.proc.threads(pid, self._rested.get(pid, {})), self._look.deadline, 0.6
            ),
            stacks=_NOT_ASKED,
        )

    def _stacks(self, sample: ProcessSample, own: bool) -> Piece[Stacks]:
        if isinstance(sample.activity, Missing):
            return sample.activity
        found = self._ladders[sample.pid].dump(sample.threads, self._sampling)
        if (
            own
            and isinstance(found, Missing)
            and self._look.run_dir is not None
            and sample.pid not in self._mute
        ):
            return self._own_dump(sample, found)
        return found

    def _own_dump(self, sample: ProcessSample, otherwise: Missing) -> Piece[Stacks]:
        """Where py-spy may not look: what the trainer itself tells, if it offers to."""
        beats = self._look.heartbeats()
        if isinstance(beats, Missing) or self._look.run_dir is None:
            return otherwise
        beat = records.rank_of(beats.value, sample.pid, sample.start_time_ticks)
        if beat is None:
            return otherwise
        ask = functools.partial(
            records.faulthandler_stacks,
            self._look.proc,
            self._look.run_dir,
            beat,
            self._look.owners(),
            seconds=1.0,
        )
        found = piece(ask, self._look.deadline, 1.5)
        if isinstance(found, Missing):
            self._look.error("faulthandler", f"pid {sample.pid}: {found.detail}")
            self._mute.add(sample.pid)  # each answer that does not come costs a second
            return otherwise
        return dataclasses.replace(found, value=dataclasses.replace(found.value, limits=otherwise.detail))


def _unread(stat: Stat, why: Missing) -> ProcessSample:
    return ProcessSample(
        pid=stat.pid, start_time_ticks=stat.start_time_ticks, activity=why, io=why, threads=why, stacks=why
    )
