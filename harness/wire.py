"""The heartbeat's layout: what a trainer writes, and anyone may read while it is stuck, stopped or dead.

One record per rank, a file of fixed size, little-endian:

    header        identity of the writer; complete before the file gets its name, never written again
    counters      per ring, how many blocks were ever written (8 aligned bytes each, stored last)
    FACTS         declared: total steps, schedule, world size, how it was closed
    NOW           phase, last progress, what moved
    STAGES        the stack of stages, at each change of it
    STEPS         one row per step
    PHASES        the phases' seconds so far, for the row of the same number, once there are any
    RATES         learning rates, for the row of the same number, where it has several

Everything after the header stands in rings of *blocks*: number, values, check. The writer never touches its
newest block, so wherever it is stopped or killed, the newest whole block is intact: no lock, nothing that
can stay odd for ever. A reader copies, and believes a block only if its CRC-32 holds and its number fits;
so half a write is never taken for a whole one, in whatever order the stores become visible.

What is written in each step (NOW, STEPS, PHASES, RATES) is written more often than all else, and a CRC is
a third of its cost, or half where a step has emptied the caches. So on machines whose stores become visible
in order (`ORDERED`; the header says so) those blocks have none. There the counter is enough: a block that
was counted is whole, and it is whole in a copy as long as a counter read after copying says that the writer
has not come round to it: blocks from `counter - count + 1` on, for the next one may be half written.

Covered: names, numbers, units (seconds, bytes; wall = Unix time, monotonic = CLOCK_MONOTONIC). Not here:
writing (`harness.emit`) and reading (`harness.watch.heartbeat`). Imports `struct` alone: each trainer pays
for it.
"""

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Block: TypeAlias = tuple[int, tuple[Any, ...]]  # number, values

MAGIC = b"HARNBEAT"
VERSION = 1

# Known names. A stage's name is free text all the same; time in any other phase is accounted to "other".
STAGES = (
    "boot", "import", "config", "distributed", "tokenizer", "dataset", "model", "optimizer", "resume",
    "first_batch", "compile", "train", "eval", "checkpoint", "download", "finish",
)  # fmt: skip
# Where a trainer stands that said nothing of it: it is judged by its log and activity, not by its record.
COMMAND_STAGE = "command"
# How a record is closed by `harness.auto`: the interpreter came to its end, whatever its exit status is.
ENDED = "ended"
PHASES = ("data", "forward", "backward", "optimizer", "checkpoint", "eval", "other")
OTHER_PHASE = len(PHASES) - 1

NAME_BYTES = 31
DETAIL_BYTES = 95
MAX_RATES = 8  # learning rates of the first eight parameter groups
MAX_STAGES = 6  # the outermost five and the innermost one are recorded

# Which optional facts are there; absence is never a zero.
HAS_TOTAL_STEPS, HAS_WORLD_SIZE, HAS_KIND, HAS_PEAK, HAS_WARMUP, HAS_TOTAL, HAS_FLOOR, IS_CLOSED = (
    1, 2, 4, 8, 16, 32, 64, 128,
)  # fmt: skip
# Begun by `harness.auto` in a process that has not trained yet: one that does may take the rank over.
IS_PROVISIONAL = 256
# In a row, quicker: this one NaN among 2^52, and -1 for counts. A trainer's own NaN is another one.
_ABSENT_BYTES = b"absent\xf8\x7f"
_DOUBLE = Struct("<d")
ABSENT: float = _DOUBLE.unpack(_ABSENT_BYTES)[0]

CHECK = Struct("<I4x")
WRITTEN = CHECK.pack(1)  # in the place of a check where there is none: this is no empty place
PROLOGUE = Struct("<8sII")  # magic, version, size: the same in every version
# … rank, pid, start time in ticks (/proc/PID/stat, field 22), boot id, run id, attempt, signal for a
# traceback (0: none), opened: wall, monotonic, whether what a step writes has checks
HEADER = Struct("<8sIIIIQ40s64sIIddI4x")
COUNTERS_AT = 512
COUNTERS = Struct("<6Q")
ORDERED = frozenset(("x86_64", "i686"))  # as os.uname() names them; total store order


class Ring:
    """`count` blocks of one format, from `offset` on; block `number` has the place `number % count`."""

    __slots__ = ("body", "bytes", "count", "counter", "offset", "written")

    def __init__(self, counter: int, offset: int, count: int, values: str) -> None:
        self.counter = counter
        self.offset = offset
        self.count = count
        self.body = Struct("<Q" + values)
        self.written = Struct(f"<Q{values}I4x")  # with what stands in the place of a check
        assert self.body.size % 8 == 0, "blocks keep doubles and counters aligned"
        self.bytes = self.body.size + CHECK.size

    @property
    def end(self) -> int:
        """The first byte after the ring."""
        return self.offset + self.count * self.bytes

    def at(self, number: int) -> int:
        """Where block `number` stands in the file."""
        return self.offset + number % self.count * self.bytes


# present, phase clock (1: host), total steps, world size; schedule: kind, peak, warmup, total, floor;
# closed: wall, status
FACTS = Ring(0, COUNTERS_AT + COUNTERS.size, 4, "IIqq32sdqqdd32s")
# phase, entered (monotonic), last progress: wall, monotonic; what moved so far; detail
NOW = Ring(1, FACTS.end, 8, "32sdddQ96s")
NOW_PLACES = tuple(map(NOW.at, range(NOW.count)))
# changed: wall, monotonic; depth; then per stage its name and when it was entered: wall, monotonic
STAGE_CHANGES = Ring(2, NOW.end, 32, "ddQ" + "32sdd" * MAX_STAGES)
HEAD_BYTES = 16384
# step, wall, monotonic, step seconds (NaN: none), loss, learning rate, gradient norm, tokens; tokens so
# far, so that a lost row loses none; memory: allocated, reserved, peak
STEPS = Ring(3, HEAD_BYTES, 1024, "qddddddqqqqq")
ROW_TOKENS_TOTAL = 8  # its place among a row's values
PHASE_TOTALS = Ring(4, STEPS.end, STEPS.count, f"{len(PHASES)}d")
RATES = Ring(5, PHASE_TOTALS.end, STEPS.count, f"{MAX_RATES}d")
SIZE = RATES.end

assert STAGE_CHANGES.end <= HEAD_BYTES


def beat_path(run_dir: str, rank: int) -> str:
    """The record of `rank` in a run directory."""
    return f"{run_dir}/ranks/{rank:05d}.beat"


def traceback_path(run_dir: str, rank: int) -> str:
    """Where a trainer of `rank` writes its stacks when it gets the header's traceback signal."""
    return f"{run_dir}/ranks/{rank:05d}.traceback"


def pack_text(text: str, limit: int = NAME_BYTES) -> bytes:
    """UTF-8 of at most `limit` bytes; what does not fit is cut."""
    return text.encode("utf-8", "replace")[:limit]


def unpack_text(data: bytes) -> str:
    """Text from a padded field; a letter cut in two is dropped, control characters are made visible."""
    text = data.split(b"\0", 1)[0].decode("utf-8", "ignore")
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def is_absent(value: float) -> bool:
    """Whether this NaN is the one that means nothing was given."""
    return value != value and _DOUBLE.pack(value) == _ABSENT_BYTES


def unseal(ring: Ring, copy: bytes, at: int = 0, *, checked: bool = True) -> "Block | None":
    """The block at `at` of a copy of the file: its number and values; None if it is not whole."""
    from binascii import crc32  # not at the top: a trainer that is not watched does not pay for it

    if len(copy) < at + ring.bytes:
        return None
    if checked and CHECK.unpack_from(copy, at + ring.body.size)[0] != crc32(copy[at : at + ring.body.size]):
        return None
    number, *values = ring.body.unpack_from(copy, at)
    return number, tuple(values)


def header_check(header: bytes) -> bytes:
    """The header's check, which follows it."""
    from binascii import crc32

    return CHECK.pack(crc32(header))
