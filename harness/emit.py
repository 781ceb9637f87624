"""What a trainer calls to be seen from outside: stages, phases, steps, progress, rare events.

    schedule = {"kind": "cosine", "peak": 3e-4, "warmup": 90, "total": 900, "floor": 0.1}
    emit.open(total_steps=900, schedule=schedule)
    emit.stage("dataset")                       # enters; takes the place of the stage before
    with emit.stage("eval"): ...                # nests, and returns
    emit.phase("forward")                       # within a step; the host's clock accounts it
    emit.step(n, loss=2.5, lr=3e-4, grad_norm=1.0, tokens=4096)
    emit.progress(detail="document 1200")       # something moved inside a long stage
    emit.close()

Without HARNESS_RUN_DIR each is a no-op. With it, `open` maps this rank's record (`harness.wire`) and each
call is one small write to memory. Nothing here raises, waits for a disk or a peer (`event` alone writes to
the disk), or ends the trainer: what cannot be done is left undone, with one line on stderr when emitting
ends for good. A value that is no number is recorded as absent. Numbers are taken as `float` takes them;
hand over Python's own, for a tensor on a GPU has to be waited for.

Only the process that opened a record writes into it: a fork does not, and a record whose owner lives is
left alone by another process of the same rank. A trainer that ends without `close` leaves a record that
says so.

Not here: the record (`harness.record`) and the file it stands in (`harness.place`), both imported at
`open`; reading. Standard library only, and little of it: this is imported before torch, in every trainer.
"""

import os as _os
from time import monotonic as _monotonic
from time import time as _wall

from harness import wire as _wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from harness.record import Frame, Record

__all__ = ["close", "enabled", "event", "open", "phase", "progress", "stage", "step"]

enabled: bool = False
"""Whether this process writes a record now; read it as `emit.enabled`, for it changes."""

_record: "Record | None" = None
_given_up = False  # said so once; never tried again in this process
_hooked = False  # os.register_at_fork has no way back
_told: "Callable[[], None] | None" = None  # how `harness.auto` hears that the trainer speaks for itself

# What `step` uses each time, bound once.
_ABSENT = _wire.ABSENT
_PACK = _wire.STEPS.body.pack
_ROW_COUNT = _wire.STEPS.count
_STEPS_COUNTER = _wire.COUNTERS_AT // 8 + _wire.STEPS.counter
_PHASE_INDEX = {name: index for index, name in enumerate(_wire.PHASES)}
_PHASE_TEXT = {name: _wire.pack_text(name) for name in _wire.PHASES}
_NOW, _NOW_COUNT = _wire.NOW.counter, _wire.NOW.count  # and `_mark`
_NOW_COUNTER = _wire.COUNTERS_AT // 8 + _NOW
_NOW_PLACES = _wire.NOW_PLACES
_PACK_NOW = _wire.NOW.written.pack_into
_MAX_TOKENS = 2**48  # of one step
_MAX_COUNT = 2**63
_MAX_EVENT_BYTES = 65536


def open(  # noqa: A001 (it is called as emit.open)
    *,
    total_steps: int | None = None,
    schedule: "Mapping[str, object] | None" = None,
    rank: int | None = None,
    world_size: int | None = None,
    phase_clock: str | None = None,
) -> None:
    """Begin this rank's record, in stage "boot"; called again, declare more.

    The run directory is HARNESS_RUN_DIR; rank and world size the launcher's (`harness.ranks`) unless given.
    `schedule` has kind, peak, warmup, total, floor (a ratio of the peak). `phase_clock` is "host" (the
    default) or "none": then `phase_seconds` alone is accounted.
    """
    global _told
    if _told is not None:
        told, _told = _told, None
        told()
        phase_clock = phase_clock or "host"
    try:
        _open(total_steps, schedule, rank, world_size, phase_clock)
    except Exception as error:  # noqa: BLE001 (never into the trainer)
        from harness import place, ranks

        # A worker that imports its trainer's script once more is nothing to speak of.
        quiet = isinstance(error, place.OwnedError) and place.is_worker()
        worded = isinstance(error, (place.OwnedError, ranks.UnknownRankError))
        what = str(error) if worded else f"{type(error).__name__}: {error}"
        _give_up("" if quiet else what)


def stage(name: str) -> "_Stage":
    """Enter the stage `name`: plainly, in the place of the one before, or with `with`, nested in it."""
    record = _record
    if record is None:
        return _NO_STAGE
    text = record.text(name)
    with record.lock:
        wall, mono = _wall(), _monotonic()
        if not _writable(record, mono):
            return _NO_STAGE
        record.settle()
        frame = record.stack[-1]
        undo = (frame, frame.name, frame.wall, frame.mono, record.anchor)
        frame.name, frame.wall, frame.mono = text, wall, mono
        if len(record.stack) <= record.anchor_depth:
            record.anchor = _ABSENT
        record.stages_changed(wall, mono)
    return _Stage(record, text, undo)


def phase(name: str | None) -> None:
    """Switch to the phase `name` of this step; it ends at the next `phase`, `step` or `stage`."""
    record = _record
    if record is None:
        return
    index = -1
    if name is None:
        text = b""
    elif name.__class__ is str and name in _PHASE_INDEX:
        index, text = _PHASE_INDEX[name], _PHASE_TEXT[name]
    else:
        index, text = _wire.OTHER_PHASE, record.text(name)
    with record.lock:
        mono = _monotonic()
        if record.look_at <= mono and not _writable(record, mono):
            return
        if record.phase_index >= 0:
            record.end_phase(mono)
        if text and record.host_clock:
            record.phase_index = index
            record.use_phases = record.has_parts = True
        record.phase = text
        record.phase_entered = mono
        record.progressed = (mono + record.ahead, mono)
        record.put_now()


def _mark(phase: bytes, mono: float) -> None:
    """`phase` by `harness.auto`, whose own clock accounts the seconds: at `mono`, of a known name or b"".

    `Record.put_now`, written out, and without its lock: of two threads at the very same block one wins.
    """
    record = _record
    if record is None or (record.look_at <= mono and not _writable(record, mono)):
        return
    wall = mono + record.ahead
    record.phase, record.phase_entered, record.progressed = phase, mono, (wall, mono)
    if record.checked:
        with record.lock:
            record.put_now()
        return
    numbers = record.numbers
    number = numbers[_NOW]
    at = _NOW_PLACES[number % _NOW_COUNT]
    _PACK_NOW(record.map, at, number, phase, mono, wall, mono, record.count, record.detail, 1)
    record.counters[_NOW_COUNTER] = numbers[_NOW] = number + 1


def progress(n: int = 1, *, detail: str | None = None) -> None:
    """Say that `n` things moved (documents, batches, bytes); with n=0, only what is being waited for."""
    record = _record
    if record is None:
        return
    if n.__class__ is not int:
        from harness.values import as_int

        n = as_int(n) or 0
    with record.lock:
        mono = _monotonic()
        if record.look_at <= mono and not _writable(record, mono):
            return
        if n > 0:
            record.count = min(record.count + n, _MAX_COUNT)
            record.progressed = (_wall(), mono)
        if detail is not None:
            record.detail = record.text(detail, _wire.DETAIL_BYTES)
        record.put_now()


def step(
    n: int,
    *,
    loss: float | None = None,
    lr: "float | Sequence[float] | None" = None,
    grad_norm: float | None = None,
    tokens: int | None = None,
    memory: "tuple[int, int, int] | None" = None,
    phase_seconds: "Mapping[str, float] | None" = None,
) -> None:
    """Record optimizer step `n` as done.

    `tokens` are this step's; `memory` is (allocated, reserved, peak) in bytes; `lr` is one rate, or one for
    each parameter group; `phase_seconds` is added to what the host's clock accounted. Where `n` is no whole
    number, it counts as `progress`. Takes no lock: of two threads at the very same row one wins, and the
    row is whole.
    """
    record = _record
    if record is None:
        return
    mono = _monotonic()
    if record.look_at <= mono and not _writable(record, mono):
        return
    if phase_seconds is not None:
        record.add_phases(phase_seconds)
    if record.has_parts:
        record.end_phase(mono)
    number = record.rows
    total = record.tokens
    rates = None
    try:
        if memory is None:
            allocated = reserved = peak = -1
        else:
            allocated, reserved, peak = memory
        if tokens is None:
            count = -1
        elif tokens.__class__ is int and 0 <= tokens < _MAX_TOKENS:
            count = tokens
            total += tokens
        else:
            raise ValueError
        if lr is None:
            rate = _ABSENT
        elif lr.__class__ is float:
            rate = lr
        else:
            rates = record.rates(lr) or [_ABSENT]
            rate = rates[0]
        body = _PACK(
            number, n, mono + record.ahead, mono, mono - record.anchor,
            _ABSENT if loss is None else loss, rate, _ABSENT if grad_norm is None else grad_norm,
            count, total, allocated, reserved, peak,
        )  # fmt: skip
    except Exception:  # noqa: BLE001 (any __float__ may have been called)
        _step_of_odd_values(n, loss, lr, grad_norm, tokens, memory)
        return
    if record.rows != number:  # a signal's handler or a `__float__` made a step meanwhile: that row stands
        _step_of_odd_values(n, loss, lr, grad_norm, tokens, memory)
        return
    if record.has_parts or rates is not None:
        record.put_parts(number, rates, body)
    record.map[record.places[number % _ROW_COUNT]] = body
    record.counters[_STEPS_COUNTER] = record.rows = number + 1
    record.tokens = total
    record.anchor = mono


def event(kind: str, /, **fields: object) -> None:
    """Append a line to the run's events: for rare things only, as it writes to the disk."""
    record = _record
    if record is None:
        return
    from harness.place import append_line
    from harness.values import as_json_line, as_text

    name = as_text(kind).decode("utf-8", "ignore")
    ours: dict[str, object] = {"time": _wall(), "event": name, "rank": record.rank, "attempt": record.attempt}
    line = as_json_line(fields, ours, _MAX_EVENT_BYTES)
    append_line(f"{record.run_dir}/events", f"rank-{record.rank:05d}.jsonl", line)


def close(status: str = "finished") -> None:
    """Say that the run ended on its own, and how. Never said at exit by itself: a crash is not an end."""
    global _record, enabled
    record = _record
    if record is None:
        return
    with record.lock:
        if _writable(record, _monotonic()):
            record.facts.update(closed=_wall(), status=record.text(status))
            record.put_facts()
        _record, enabled = None, False


class _Stage:
    """What `stage` returns: nothing more to do, or the context manager that makes it a nested one."""

    __slots__ = ("frame", "name", "record", "undo")

    def __init__(
        self,
        record: "Record | None",
        name: bytes = b"",
        undo: "tuple[Frame, bytes, float, float, float] | None" = None,
    ) -> None:
        self.record = record
        self.name = name
        self.undo = undo
        self.frame: Frame | None = None

    def __enter__(self) -> "Self":
        record = self.record
        if record is None or record is not _record:
            return self
        from harness.record import Frame

        with record.lock:
            wall, mono = _wall(), _monotonic()
            if not _writable(record, mono):
                return self
            if self.undo is not None:  # take back the plain call: the stage around goes on
                around, name, entered_wall, entered_mono, record.anchor = self.undo
                wall, mono = around.wall, around.mono
                around.name, around.wall, around.mono = name, entered_wall, entered_mono
                self.undo = None
            self.frame = Frame(self.name, wall, mono)
            record.stack.append(self.frame)
            record.stages_changed(wall, mono)
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        record, frame = self.record, self.frame
        if record is None or frame is None or record is not _record:
            return
        with record.lock:
            wall, mono = _wall(), _monotonic()
            if _writable(record, mono):
                record.pop(frame, wall, mono)


_NO_STAGE = _Stage(None)


def _open(
    total_steps: int | None,
    schedule: "Mapping[str, object] | None",
    rank: int | None,
    world_size: int | None,
    phase_clock: str | None,
    *,
    unasked: bool = False,
    provisional: bool = False,
) -> None:
    """`open`, which may fail; `unasked` by `harness.auto`, and `provisional` until the trainer trains."""
    global _record, enabled
    if _given_up or (_record is None and not _os.environ.get("HARNESS_RUN_DIR")):
        return
    record = _record
    if record is None:
        record, told_size = _begin(rank, unasked=unasked, yielding=provisional)
        world_size = told_size if world_size is None else world_size
        _record, enabled = record, True
    with record.lock:
        if _writable(record, _monotonic()):
            record.declare(total_steps, world_size, schedule, phase_clock, provisional=provisional)


def _speak_for(
    told: "Callable[[], None]",
    *,
    total_steps: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    provisional: bool = False,
) -> bool:
    """`open` by `harness.auto`, for a trainer that has not; `told` is called once it does so itself.

    Whether this process has a record now: not where another one has it, of which nothing is said. With
    another `rank` than the record's, a new one is begun and the old one left as moved.
    """
    global _told
    if _record is not None and _told is None:
        return False  # the trainer's own
    if _record is not None and rank is not None and rank != _record.rank:
        _told = None
        close("moved")
    try:
        _open(total_steps, None, rank, world_size, "none", unasked=True, provisional=provisional)
    except Exception as error:  # noqa: BLE001 (as in `open`)
        from harness import place, ranks

        if not isinstance(error, (place.OwnedError, ranks.UnknownRankError)):  # torch will say its rank
            _give_up(f"{type(error).__name__}: {error}")
        return False
    _told = told if _record is not None else None
    return _record is not None


def _begin(rank: object, *, unasked: bool, yielding: bool) -> "tuple[Record, int | None]":
    """This process's record, and how many ranks there are; OwnedError where it belongs to another process."""
    global _hooked
    from harness import place, ranks, values
    from harness.record import Record

    environ = _os.environ
    try:
        told, size = ranks.told(environ)
    except ranks.UnknownRankError:
        if rank is None:
            raise
        told, size = None, None
    number = (told or 0) if rank is None else values.as_int(rank)
    if number is None or not 0 <= number < 100_000:
        raise ValueError(f"the rank is {number if rank is None else rank!r}")
    run_dir = _os.path.abspath(environ["HARNESS_RUN_DIR"])  # noqa: PTH100 (pathlib costs more than all of this)
    attempt = min(values.int_of_text(environ.get("HARNESS_ATTEMPT", "")) or 1, 2**32 - 1)
    record = place.create(
        run_dir,
        number,
        run_id=environ.get("HARNESS_RUN_ID", ""),
        attempt=attempt,
        begin=lambda mapped: Record(mapped, run_dir, number, attempt, checked=not place.is_ordered()),
        unasked=unasked,
        yielding=yielding,
    )
    if not _hooked:
        _os.register_at_fork(after_in_child=_after_fork)
        _hooked = True
    return record, size


def _after_fork() -> None:
    """In a fork the record is the parent's. The child may open one of its own, of another rank."""
    global _record, enabled, _told
    _record, enabled, _told = None, False, None


def _writable(record: "Record", now: float) -> bool:
    """Whether a store into the record is safe; if not, the last word of emitting."""
    if record.intact(now):
        return True
    _give_up("the record was truncated")
    return False


def _give_up(why: str) -> None:
    global _record, enabled, _given_up
    _record, enabled, _given_up = None, False, True
    if why:
        try:
            line = f"harness.emit: this process is not watched from here on: {why}\n"
            _os.write(2, line.encode("utf-8", "replace"))
        except OSError:
            pass


def _step_of_odd_values(
    n: object, loss: object, lr: object, grad_norm: object, tokens: object, memory: object
) -> None:
    """`step` again, with what is no number taken as absent."""
    from harness import values

    number = values.as_int(n)
    if number is None:
        progress()
        return
    step(
        number,
        loss=values.as_float(loss),
        lr=values.as_rates(lr),
        grad_norm=values.as_float(grad_norm),
        tokens=values.as_tokens(tokens),
        memory=values.as_memory(memory),
    )
