"""What a trainer calls to be seen from outside: stages, phases, steps, progress, rare events.

    emit.open(total_steps=1000, schedule={"kind": "cosine", "peak": 3e-4, "warmup": 100, "total": 1000, "floor": 0.1})
    emit.stage("dataset")                       # enters; takes the place of the stage before
    with emit.stage("eval"): ...                # nests, and returns
    emit.phase("forward")                       # within a step; the host's clock accounts it
    emit.step(n, loss=2.5, lr=3e-4, grad_norm=1.0, tokens=4096)
    emit.progress(detail="document 1200")       # something moved inside a long stage
    emit.close()

Without HARNESS_RUN_DIR each is a no-op. With it, `open` maps this rank's record (`harness.wire`) and each call is one
small write to memory. Nothing here raises, waits for a disk or a peer, or ends the trainer: what cannot be done is
left undone, with one line on stderr when emitting ends for good. A value that is no number is recorded as absent.
Numbers are taken as `float` takes them; hand over Python's own, for a tensor on a GPU has to be waited for.

Only the process that opened a record writes into it: a fork does not, and a record whose owner lives is left alone by
another process of the same rank. A trainer that ends without `close` leaves a record that says so.

Not here: making the record (`harness.record`, imported at `open`), and reading it. Standard library only, and little
of it: this is imported before torch, in every trainer.
"""

import mmap as _mmap
import os as _os
from _thread import RLock as _RLock
from struct import Struct as _Struct
from time import monotonic as _monotonic
from time import time as _wall

from harness import wire as _wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["close", "enabled", "event", "open", "phase", "progress", "stage", "step"]

enabled: bool = False
"""Whether this process writes a record now; read it as `emit.enabled`, for it changes."""

_record: "_Record | None" = None
_given_up = False  # said so once; never tried again in this process
_hooked = False

# What `step` uses each time, bound once.
_FLOAT = _Struct("<d")
_CHECK = _wire.CHECK.pack
_PACK = _wire.STEPS.body.pack
_PACK_ONE_RATE = _wire.STEP_OF_ONE_RATE.pack
_ROWS_AT, _ROW_COUNT, _ROW_BYTES = _wire.STEPS.offset, _wire.STEPS.count, _wire.STEPS.bytes
_STEPS_COUNTER = _wire.COUNTERS_AT // 8 + _wire.STEPS.counter
_HAS_STEP_SECONDS, _HAS_LOSS, _HAS_GRAD_NORM = _wire.HAS_STEP_SECONDS, _wire.HAS_LOSS, _wire.HAS_GRAD_NORM
_HAS_TOKENS, _HAS_MEMORY = _wire.HAS_TOKENS, _wire.HAS_MEMORY
_PHASE_INDEX = {name: index for index, name in enumerate(_wire.PHASES)}
_LOOK_EVERY_SECONDS = 0.001
_MAX_EVENT_BYTES = 65536
_MAX_TOKENS = 2**48  # of one step
_NO_RATES = (0.0,) * _wire.MAX_RATES


class _Record:
    """An open record and what the next block is made from."""

    __slots__ = (
        "anchor", "anchor_depth", "attempt", "count", "counters", "crc32", "detail", "facts", "host_clock", "lock",
        "look_at", "map", "numbers", "phase", "phase_entered", "phase_index", "progressed", "rank", "rows", "run_dir",
        "stack", "tokens", "totals",
    )  # fmt: skip

    def __init__(self, record: _mmap.mmap, run_dir: str, rank: int, attempt: int) -> None:
        from binascii import crc32

        self.crc32 = crc32
        self.map = record
        self.counters = memoryview(record).cast("Q")
        self.run_dir = run_dir
        self.rank = rank
        self.attempt = attempt
        self.lock = _RLock()  # re-entrant: a signal's handler may emit in the middle of an emit
        self.look_at = 0.0
        self.numbers = [0, 0, 0]  # blocks written of FACTS, NOW, STAGE_CHANGES
        self.rows = 0  # and of STEPS
        self.facts: dict[str, object] = {}
        self.host_clock = True
        wall, mono = _wall(), _monotonic()
        self.stack: list[list[object]] = [[b"boot", wall, mono]]  # of name, entered: wall, monotonic
        self.phase = b""
        self.phase_index = -1
        self.phase_entered = 0.0
        self.totals = [0.0] * len(_wire.PHASES)
        self.anchor: float | None = None  # from when the next step is timed
        self.anchor_depth = 0
        self.tokens = 0
        self.count = 0
        self.progressed = (wall, mono)
        self.detail = b""
        self.put_facts()
        self.put_now()
        self.put_stages(wall, mono)

    def put(self, ring: _wire.Ring, *values: object) -> None:
        """Write the next block of `ring`, then count it."""
        number = self.numbers[ring.counter]
        body = ring.body.pack(number, *values)
        at = ring.at(number)
        self.map[at : at + ring.bytes] = body + _CHECK(self.crc32(body))
        self.counters[_wire.COUNTERS_AT // 8 + ring.counter] = self.numbers[ring.counter] = number + 1

    def intact(self, now: float) -> bool:
        """Whether the file still has its length: a store beyond a file's end would kill. Asked at most each millisecond."""
        self.look_at = now + _LOOK_EVERY_SECONDS
        try:
            if self.map.size() >= _wire.SIZE:
                return True
        except (OSError, ValueError):
            pass
        _give_up("the record was truncated")
        return False

    def put_facts(self) -> None:
        facts, w = self.facts, _wire
        present = 0
        values: list[object] = []
        for key, bit, absent in (
            ("total_steps", w.HAS_TOTAL_STEPS, 0), ("world_size", w.HAS_WORLD_SIZE, 0), ("kind", w.HAS_KIND, b""),
            ("peak", w.HAS_PEAK, 0.0), ("warmup", w.HAS_WARMUP, 0), ("total", w.HAS_TOTAL, 0),
            ("floor", w.HAS_FLOOR, 0.0), ("closed", w.IS_CLOSED, 0.0),
        ):  # fmt: skip
            value = facts.get(key)
            present |= 0 if value is None else bit
            values.append(absent if value is None else value)
        self.put(w.FACTS, present, int(self.host_clock), *values, facts.get("status", b""))

    def put_now(self) -> None:
        self.put(_wire.NOW, self.phase, self.phase_entered, *self.progressed, self.count, self.detail)

    def put_stages(self, wall: float, mono: float) -> None:
        stack = self.stack
        shown = stack if len(stack) <= _wire.MAX_STAGES else [*stack[: _wire.MAX_STAGES - 1], stack[-1]]
        flat = [value for frame in shown for value in frame]
        flat += [b"", 0.0, 0.0] * (_wire.MAX_STAGES - len(shown))
        self.put(_wire.STAGE_CHANGES, wall, mono, len(stack), *flat)

    def end_phase(self, now: float) -> None:
        """Account the phase that runs, if any, and leave it."""
        if self.phase_index >= 0:
            self.totals[self.phase_index] += now - self.phase_entered
            self.phase_index = -1

    def stages_changed(self, wall: float, mono: float) -> None:
        self.end_phase(mono)
        self.phase = self.detail = b""
        self.progressed = (wall, mono)
        self.put_now()
        self.put_stages(wall, mono)

    def add_phases(self, seconds: object) -> None:
        """Add what the trainer measured itself; entries that are no durations are left out."""
        try:
            items = list(seconds.items())  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 (anything may have been handed over)
            return
        for name, value in items:
            number = _float(value)
            if number is not None and 0.0 <= number < 1e12:
                self.totals[_PHASE_INDEX.get(name, _wire.OTHER_PHASE)] += number


class _Stage:
    """What `stage` returns: nothing to do after a plain call, or the context manager that turns it into a nested one."""

    __slots__ = ("before", "frame", "name", "record")

    def __init__(
        self, record: "_Record | None", name: bytes = b"", before: "tuple[object, ...]" = ()
    ) -> None:
        self.record = record
        self.name = name
        self.before = before
        self.frame: list[object] | None = None

    def __enter__(self) -> "_Stage":
        record = self.record
        if record is None or record is not _record:
            return self
        with record.lock:
            wall, mono = _wall(), _monotonic()
            if record.look_at <= mono and not record.intact(mono):
                return self
            if self.before:  # take back the plain call: the stage around goes on
                *frame, record.anchor = self.before
                wall, mono = record.stack[-1][1:]  # type: ignore[assignment]
                record.stack[-1][:] = frame
                self.before = ()
            self.frame = [self.name, wall, mono]
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
            depth = next((i for i, other in enumerate(record.stack) if other is frame), 0)
            if depth == 0 or (record.look_at <= mono and not record.intact(mono)):
                return
            if record.anchor is not None:  # a step is not charged for what nested in it
                inside = depth == record.anchor_depth
                record.anchor = record.anchor + mono - float(frame[2]) if inside else None  # type: ignore[arg-type]
            del record.stack[depth:]
            record.stages_changed(wall, mono)


_NO_STAGE = _Stage(None)


def open(  # noqa: A001
    *,
    total_steps: int | None = None,
    schedule: "Mapping[str, object] | None" = None,
    rank: int | None = None,
    world_size: int | None = None,
    phase_clock: str | None = None,
) -> None:
    """Begin this rank's record, in stage "boot"; called again, declare more.

    The run directory is HARNESS_RUN_DIR, the rank RANK unless given. `schedule` has kind, peak, warmup, total, floor
    (a ratio of the peak). `phase_clock` is "host" (the default) or "none": then only `phase_seconds` is accounted.
    """
    global _record, enabled
    if _given_up or (_record is None and not _os.environ.get("HARNESS_RUN_DIR")):
        return
    try:
        record = _record
        if record is None:
            record = _begin(_os.environ.get("RANK", "0") if rank is None else rank)
            if record is None:
                return
            _record, enabled = record, True
        with record.lock:
            facts = record.facts
            declared: dict[str, object] = {"total_steps": _int(total_steps), "world_size": _int(world_size)}
            if world_size is None and "world_size" not in facts:
                declared["world_size"] = _int_text(_os.environ.get("WORLD_SIZE", ""))
            if schedule is not None:
                kind = schedule.get("kind")
                declared["kind"] = None if kind is None else _wire.pack_text(str(kind))
                declared.update({key: _float(schedule.get(key)) for key in ("peak", "floor")})
                declared.update({key: _int(schedule.get(key)) for key in ("warmup", "total")})
            facts.update({key: value for key, value in declared.items() if value is not None})
            if phase_clock is not None:
                record.host_clock = phase_clock != "none"
            if record.intact(_monotonic()):
                record.put_facts()
    except Exception as error:  # noqa: BLE001 (never into the trainer)
        _give_up(f"{type(error).__name__}: {error}")


def _begin(rank: object) -> "_Record | None":
    """This process's record; None where it belongs to another process."""
    global _hooked
    from harness import record as making

    number = _int_text(rank) if isinstance(rank, str) else _int(rank)
    if number is None or not 0 <= number < 100_000:
        raise ValueError(f"the rank is {rank!r}")
    environ = _os.environ
    run_dir = _os.path.abspath(environ["HARNESS_RUN_DIR"])
    attempt = max(_int_text(environ.get("HARNESS_ATTEMPT", "")) or 1, 1) & 0xFFFFFFFF
    if not _os.path.isdir(run_dir):
        raise FileNotFoundError(f"HARNESS_RUN_DIR is {run_dir}, and there is no such directory")
    try:
        mapped = making.create(run_dir, number, run_id=environ.get("HARNESS_RUN_ID", ""), attempt=attempt)
    except making.OwnedError as error:
        # A worker that imports its trainer's script again is nothing to speak of.
        _give_up("" if making.is_worker() else str(error))
        return None
    if not _hooked:
        _os.register_at_fork(after_in_child=_after_fork)
        _hooked = True
    return _Record(mapped, run_dir, number, attempt)


def stage(name: str) -> _Stage:
    """Enter the stage `name`: plainly, in the place of the one before, or with `with`, nested in it."""
    record = _record
    if record is None:
        return _NO_STAGE
    text = _text(name)
    with record.lock:
        wall, mono = _wall(), _monotonic()
        if record.look_at <= mono and not record.intact(mono):
            return _NO_STAGE
        frame = record.stack[-1]
        before = (*frame, record.anchor)
        frame[:] = (text, wall, mono)
        record.anchor = None
        record.stages_changed(wall, mono)
    return _Stage(record, text, before)


def phase(name: str | None) -> None:
    """Switch to the phase `name` of this step; it ends at the next `phase`, `step` or `stage`."""
    record = _record
    if record is None:
        return
    text = b"" if name is None else _text(name)
    with record.lock:
        mono = _monotonic()
        if record.look_at <= mono and not record.intact(mono):
            return
        record.end_phase(mono)
        if text and record.host_clock:
            record.phase_index = _PHASE_INDEX.get(name, _wire.OTHER_PHASE)  # type: ignore[arg-type]
        record.phase = text
        record.phase_entered = mono
        record.progressed = (_wall(), mono)
        record.put_now()


def progress(n: int = 1, *, detail: str | None = None) -> None:
    """Say that `n` things moved (documents, batches, bytes); with n=0 only what is being waited for."""
    record = _record
    if record is None:
        return
    moved = n if n.__class__ is int else _int(n) or 0
    with record.lock:
        mono = _monotonic()
        if record.look_at <= mono and not record.intact(mono):
            return
        if moved > 0:
            record.count = min(record.count + moved, 2**63)
            record.progressed = (_wall(), mono)
        if detail is not None:
            record.detail = _text(detail, _wire.DETAIL_BYTES)
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

    `tokens` are this step's; `memory` is (allocated, reserved, peak) in bytes; `lr` is one rate or one per parameter
    group; `phase_seconds` is added to what the host's clock accounted. A number of steps that is none counts as
    `progress`. Takes no lock: of two threads at the very same row one wins, and the row is whole.
    """
    record = _record
    if record is None:
        return
    mono = _monotonic()
    if record.look_at <= mono and not record.intact(mono):
        return
    number = record.rows
    totals = record.totals
    if record.phase_index >= 0:
        record.end_phase(mono)
    if phase_seconds is not None:
        record.add_phases(phase_seconds)
    present = 0
    total = record.tokens
    seconds = 0.0
    allocated = reserved = peak = 0
    anchor = record.anchor
    try:
        if anchor is not None:
            present = _HAS_STEP_SECONDS
            seconds = mono - anchor
        if loss is not None:
            present |= _HAS_LOSS
        if grad_norm is not None:
            present |= _HAS_GRAD_NORM
        if tokens.__class__ is int and 0 <= tokens < _MAX_TOKENS:  # type: ignore[operator]
            present |= _HAS_TOKENS
            total += tokens  # type: ignore[operator]
        elif tokens is not None:
            raise ValueError
        if memory is not None:
            present |= _HAS_MEMORY
            allocated, reserved, peak = memory
        fixed = (
            number, n, _wall(), mono, seconds,
            0.0 if loss is None else loss, 0.0 if grad_norm is None else grad_norm, tokens or 0, total,
            allocated, reserved, peak, present,
        )  # fmt: skip
        if lr.__class__ is float:
            body = _PACK_ONE_RATE(*fixed, 1, *totals, lr)
        else:
            rates = _rates(lr)
            body = _PACK(*fixed, len(rates), *totals, *rates, *_NO_RATES[len(rates) :])
    except Exception:  # noqa: BLE001 (any __float__ may have been called)
        _step_of_odd_values(n, loss, lr, grad_norm, tokens, memory)
        return
    at = _ROWS_AT + number % _ROW_COUNT * _ROW_BYTES
    record.map[at : at + _ROW_BYTES] = body + _CHECK(record.crc32(body))
    record.counters[_STEPS_COUNTER] = record.rows = number + 1
    record.tokens = total
    record.anchor = mono
    record.anchor_depth = len(record.stack)


def _step_of_odd_values(
    n: object, loss: object, lr: object, grad_norm: object, tokens: object, memory: object
) -> None:
    """`step` again, with what is no number taken as absent."""
    number, amount = _int(n), _int(tokens)
    if number is None:
        progress()
        return
    if amount is not None and not 0 <= amount < _MAX_TOKENS:
        amount = None
    try:
        sizes = [_int(size) for size in memory] if memory is not None else []  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 (as above)
        sizes = []
    allocated, reserved, peak = sizes if len(sizes) == 3 else (None, None, None)
    whole = None if allocated is None or reserved is None or peak is None else (allocated, reserved, peak)
    step(number, loss=_float(loss), lr=_rates(lr), grad_norm=_float(grad_norm), tokens=amount, memory=whole)


def event(kind: str, /, **fields: object) -> None:
    """Append a line to the run's events: for rare things only, as it writes to the disk."""
    record = _record
    if record is None:
        return
    ours = {"time": _wall(), "event": str(kind)[:200], "rank": record.rank, "attempt": record.attempt}
    try:
        import json

        try:
            line = json.dumps({**fields, **ours}, default=_shown, allow_nan=False)
        except ValueError:
            line = json.dumps({**_finite(fields), **ours}, default=_shown, allow_nan=False)  # type: ignore[dict-item]
        if len(line) > _MAX_EVENT_BYTES:
            line = json.dumps({**ours, "dropped": f"fields of {len(line)} characters"})
    except Exception:  # noqa: BLE001 (fields are anything)
        return
    folder = f"{record.run_dir}/events"
    flags = _os.O_WRONLY | _os.O_CREAT | _os.O_APPEND | _os.O_NOFOLLOW | _os.O_NONBLOCK | _os.O_CLOEXEC
    try:
        _os.makedirs(folder, exist_ok=True)
        descriptor = _os.open(f"{folder}/rank-{record.rank:05d}.jsonl", flags, 0o644)
    except OSError:
        return
    try:
        data = line.encode() + b"\n"
        if 0 < _os.write(descriptor, data) < len(data):  # the disk is full: at least keep the next line apart
            _os.write(descriptor, b"\n")
    except OSError:
        pass
    finally:
        _os.close(descriptor)


def close(status: str = "finished") -> None:
    """Say that the run ended on its own, and how. Not said at exit by itself: a crash must not look finished."""
    global _record, enabled
    record = _record
    if record is None:
        return
    with record.lock:
        if record.intact(_monotonic()):
            record.facts.update(closed=_wall(), status=_text(status))
            record.put_facts()
        _record, enabled = None, False


def _after_fork() -> None:
    """In a fork the record is the parent's. The child may open one of its own, of another rank."""
    global _record, enabled
    _record, enabled = None, False


def _give_up(why: str) -> None:
    global _record, enabled, _given_up
    _record, enabled, _given_up = None, False, True
    if why:
        try:
            _os.write(
                2,
                f"harness.emit: this process is not watched from here on: {why}\n".encode("utf-8", "replace"),
            )
        except OSError:
            pass


def _text(value: object, limit: int = _wire.NAME_BYTES) -> bytes:
    try:
        return _wire.pack_text(value if isinstance(value, str) else str(value), limit)
    except Exception:  # noqa: BLE001 (any __str__ may have been called)
        return b"?"


def _float(value: object) -> float | None:
    try:
        number: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    except Exception:  # noqa: BLE001 (any __float__ may have been called)
        return None
    return number


def _int(value: object) -> int | None:
    try:
        number = int(value) if not isinstance(value, str | bytes) else None  # type: ignore[call-overload]
        return number if number is not None and number == value and -(2**63) <= number < 2**63 else None
    except Exception:  # noqa: BLE001 (any __int__ may have been called)
        return None


def _int_text(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else None


def _rates(lr: object) -> list[float]:
    """One learning rate per parameter group; NaN for what is no number, so that the groups keep their places."""
    if lr is None:
        return []
    try:
        several = [] if isinstance(lr, str | bytes) else list(lr)  # type: ignore[call-overload]
    except Exception:  # noqa: BLE001 (not a sequence, then: one rate)
        rate = _float(lr)
        return [] if rate is None else [rate]
    return [float("nan") if (rate := _float(value)) is None else rate for value in several[: _wire.MAX_RATES]]


def _finite(value: object) -> object:
    """JSON has no NaN: said in words, as everywhere in a run directory."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _shown(value: object) -> str:
    return repr(value)[:200]
