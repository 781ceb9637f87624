"""An open record: what this process has said so far, and how its next blocks are made from that.

The layout is `harness.wire`'s. Not here: what a trainer calls, and the row of a step (`harness.emit`, where
it is fastest); making the file (`harness.place`). Imported at `emit.open`. Standard library only.
"""

import mmap
from _thread import RLock
from binascii import crc32
from time import monotonic, time

from harness import values, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LOOK_EVERY_SECONDS = 0.005
_COUNTERS = wire.COUNTERS_AT // 8
_CHECK, _WRITTEN = wire.CHECK.pack, wire.WRITTEN
_PACK_TOTALS = wire.PHASE_TOTALS.body.pack
_PACK_TOTALS_AT = wire.PHASE_TOTALS.written.pack_into
_TOTALS_AT, _TOTALS_BYTES, _ROW_COUNT = wire.PHASE_TOTALS.offset, wire.PHASE_TOTALS.bytes, wire.STEPS.count
_TOTALS_COUNTER = _COUNTERS + wire.PHASE_TOTALS.counter
_PACK_NOW, _NOW = wire.NOW.body.pack, wire.NOW.counter
_PACK_NOW_AT, _NOW_PLACES = wire.NOW.written.pack_into, wire.NOW_PLACES
_NOW_COUNT, _NOW_COUNTER = wire.NOW.count, _COUNTERS + wire.NOW.counter
_PHASE_INDEX = {name: index for index, name in enumerate(wire.PHASES)}
_FACTS = (  # in the order of wire.FACTS: name, its bit, and what fills its field where it is absent
    ("total_steps", wire.HAS_TOTAL_STEPS, 0),
    ("world_size", wire.HAS_WORLD_SIZE, 0),
    ("kind", wire.HAS_KIND, b""),
    ("peak", wire.HAS_PEAK, 0.0),
    ("warmup", wire.HAS_WARMUP, 0),
    ("total", wire.HAS_TOTAL, 0),
    ("floor", wire.HAS_FLOOR, 0.0),
    ("closed", wire.IS_CLOSED, 0.0),
)


def seal(ring: wire.Ring, number: int, *body_values: object) -> bytes:
    """A block, with its check."""
    body = ring.body.pack(number, *body_values)
    return body + wire.CHECK.pack(crc32(body))


class Frame:
    """A stage on the stack."""

    __slots__ = ("mono", "name", "wall")

    def __init__(self, name: bytes, wall: float, mono: float) -> None:
        self.name = name
        self.wall = wall
        self.mono = mono


class Record:
    """This process's record, and what its next blocks are made from. Callers hold `lock`, but for a step."""

    __slots__ = (
        "ahead", "anchor", "anchor_depth", "attempt", "changed_at", "checked", "count", "counters",
        "detail", "facts", "has_parts", "host_clock", "lock", "look_at", "map", "numbers", "phase",
        "phase_entered", "phase_index", "places", "progressed", "rank", "rates", "rows", "run_dir", "stack",
        "text", "tokens", "totals", "use_phases",
    )  # fmt: skip

    def __init__(self, mapped: mmap.mmap, run_dir: str, rank: int, attempt: int, *, checked: bool) -> None:
        self.map = mapped
        self.counters = memoryview(mapped).cast("Q")
        self.text = values.as_text
        self.rates = values.as_rates
        self.run_dir = run_dir
        self.rank = rank
        self.attempt = attempt
        self.lock = RLock()  # re-entrant: a signal's handler may emit in the middle of an emit
        self.checked = checked  # what a step writes needs a check on this machine
        self.look_at = 0.0
        self.numbers = [0, 0, 0]  # blocks written of FACTS, NOW, STAGE_CHANGES
        self.rows = 0  # and of STEPS
        self.facts: dict[str, object] = {}
        self.host_clock = True
        wall, mono = time(), monotonic()
        self.ahead = wall - mono
        self.stack = [Frame(b"boot", wall, mono)]
        self.phase = b""
        self.phase_index = -1  # into wire.PHASES while the host's clock accounts one
        self.phase_entered = 0.0
        self.totals = [0.0] * len(wire.PHASES)
        self.use_phases = False
        self.has_parts = checked  # a row is more than its body
        at = [wire.STEPS.at(number) for number in range(wire.STEPS.count)]
        self.places = [slice(place, place + wire.STEPS.body.size) for place in at]
        self.anchor = wire.ABSENT  # from when the next step is timed
        self.anchor_depth = 0  # of the stack, at the last step
        self.changed_at = mono  # the stack
        self.tokens = 0
        self.count = 0
        self.progressed = (wall, mono)
        self.detail = b""
        self.put_facts()
        self.put_now()
        self.put_stages(wall, mono)

    def intact(self, now: float) -> bool:
        """Whether the file has its length yet; asked once in 5 ms, as is how far wall time is ahead.

        A store beyond a file's end is SIGBUS. Asking at each store would cost as much as the store; but
        nobody cuts a record on purpose, and what falls into 5 ms are the calls of one very short step.
        """
        self.look_at = now + LOOK_EVERY_SECONDS
        self.ahead = time() - now
        try:
            return self.map.size() >= wire.SIZE
        except (OSError, ValueError):
            return False

    def put(self, ring: wire.Ring, *body_values: object) -> None:
        """Write the next block of `ring`, then count it."""
        number = self.numbers[ring.counter]
        block = seal(ring, number, *body_values)
        if self.numbers[ring.counter] != number:  # a signal's handler emitted meanwhile: that block stands
            self.put(ring, *body_values)
            return
        at = ring.at(number)
        self.map[at : at + ring.bytes] = block
        self.counters[_COUNTERS + ring.counter] = self.numbers[ring.counter] = number + 1

    def put_parts(self, number: int, rates: "list[float] | None", body: bytes) -> None:
        """Write what row `number`, not counted yet, has besides its body: phases, rates, check."""
        if self.use_phases:  # put_rates, written out: most trainers have phases
            at = _TOTALS_AT + number % _ROW_COUNT * _TOTALS_BYTES
            if self.checked:
                totals = _PACK_TOTALS(number, *self.totals)
                self.map[at : at + _TOTALS_BYTES] = totals + _CHECK(crc32(totals))
            else:
                _PACK_TOTALS_AT(self.map, at, number, *self.totals, 1)
            self.counters[_TOTALS_COUNTER] = number + 1
        if rates is not None:
            self.put_rates(number, rates)
        if self.checked:
            at = wire.STEPS.at(number) + wire.STEPS.body.size
            self.map[at : at + wire.CHECK.size] = wire.CHECK.pack(crc32(body))

    def put_rates(self, number: int, rates: list[float]) -> None:
        """Write the rates of row `number`; count that the ring is in use."""
        ring = wire.RATES
        body = ring.body.pack(number, *rates, *[wire.ABSENT] * (wire.MAX_RATES - len(rates)))
        at = ring.at(number)
        self.map[at : at + ring.bytes] = body + (_CHECK(crc32(body)) if self.checked else _WRITTEN)
        self.counters[_COUNTERS + ring.counter] = number + 1

    def put_facts(self) -> None:
        """What was declared."""
        given = [(self.facts.get(name), bit, absent) for name, bit, absent in _FACTS]
        present = sum(bit for value, bit, _ in given if value is not None)
        present |= wire.IS_PROVISIONAL if self.facts.get("provisional") else 0
        fields = [absent if value is None else value for value, _, absent in given]
        self.put(wire.FACTS, present, int(self.host_clock), *fields, self.facts.get("status", b""))

    def put_now(self) -> None:
        """What moved last: `put`, written out, as it is written at each phase of each step."""
        wall, mono = self.progressed
        numbers = self.numbers
        number = numbers[_NOW]
        at = _NOW_PLACES[number % _NOW_COUNT]
        body = b""
        if self.checked:
            body = _PACK_NOW(number, self.phase, self.phase_entered, wall, mono, self.count, self.detail)
        if numbers[_NOW] != number:  # as in `put`
            self.put_now()
            return
        if body:
            self.map[at : at + wire.NOW.bytes] = body + _CHECK(crc32(body))
        else:
            _PACK_NOW_AT(
                self.map, at, number, self.phase, self.phase_entered, wall, mono, self.count, self.detail, 1
            )
        self.counters[_NOW_COUNTER] = numbers[_NOW] = number + 1

    def put_stages(self, wall: float, mono: float) -> None:
        """The stack, as it is from now on."""
        stack = self.stack
        shown = stack if len(stack) <= wire.MAX_STAGES else [*stack[: wire.MAX_STAGES - 1], stack[-1]]
        fields = [field for frame in shown for field in (frame.name, frame.wall, frame.mono)]
        fields += [b"", 0.0, 0.0] * (wire.MAX_STAGES - len(shown))
        self.put(wire.STAGE_CHANGES, wall, mono, len(stack), *fields)

    def end_phase(self, now: float) -> None:
        """Account the phase that the clock runs for, if any."""
        if self.phase_index >= 0:
            self.totals[self.phase_index] += now - self.phase_entered
            self.phase_index = -1

    def stages_changed(self, wall: float, mono: float) -> None:
        """Leave the phase, and write the stack."""
        self.end_phase(mono)
        self.phase = self.detail = b""
        self.progressed = (wall, mono)
        self.changed_at = mono
        self.put_now()
        self.put_stages(wall, mono)

    def settle(self) -> None:
        """Note, before the stack changes, how deep in it the last step was."""
        if self.anchor > self.changed_at:
            self.anchor_depth = len(self.stack)

    def pop(self, frame: Frame, wall: float, mono: float) -> None:
        """Leave `frame` and what is nested in it; nothing if it was left already."""
        depth = next((depth for depth, other in enumerate(self.stack) if other is frame), 0)
        if depth == 0:
            return
        self.settle()
        if depth < self.anchor_depth:  # the stage of the last step itself
            self.anchor = wire.ABSENT
        elif depth == self.anchor_depth:
            self.anchor += mono - frame.mono  # a step is not charged for what was nested in it
        del self.stack[depth:]
        self.stages_changed(wall, mono)

    def add_phases(self, seconds: object) -> None:
        """Add what the trainer measured itself."""
        self.use_phases = self.has_parts = True
        for name, value in values.as_phase_seconds(seconds):
            known = name.__class__ is str and name in _PHASE_INDEX
            self.totals[_PHASE_INDEX[name] if known else wire.OTHER_PHASE] += value  # type: ignore[index]

    def add_measured(self, seconds: list[float]) -> None:
        """The same by `harness.auto`: in the order of `wire.PHASES`, and known to be seconds."""
        self.use_phases = self.has_parts = True
        totals = self.totals
        for index, value in enumerate(seconds):
            if value:
                totals[index] += value

    def declare(
        self,
        total_steps: object,
        world_size: object,
        schedule: "Mapping[str, object] | None",
        phase_clock: object,
        *,
        provisional: bool = False,
    ) -> None:
        """Take over what is given, keep what is not."""
        self.facts["provisional"] = provisional
        given: dict[str, object] = {
            "total_steps": values.as_int(total_steps),
            "world_size": values.as_int(world_size),
        }
        if schedule is not None:
            kind = schedule.get("kind")
            given["kind"] = None if kind is None else values.as_text(kind)
            given.update({key: values.as_float(schedule.get(key)) for key in ("peak", "floor")})
            given.update({key: values.as_int(schedule.get(key)) for key in ("warmup", "total")})
        self.facts.update({key: value for key, value in given.items() if value is not None})
        if phase_clock is not None:
            self.host_clock = phase_clock != "none"
        self.put_facts()
