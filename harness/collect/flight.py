"""Dumps of torch's flight recorder: which collective each rank entered last; read in a child.

torch writes one file a rank (a prefix and the rank's number) when a collective times out, and on request.
The files are pickles and the target's, so hostile: opened as every path of a target's is, bounded in size,
and read by an unpickler that knows no class and no function, in a child with little memory and time.

Nothing is asked of the target: where there is no dump, none is made. Tried on dumps that torch 2.13 wrote of
gloo; NCCL's come from the same writer, but none was at hand. Not covered: what the dumps mean (rules).
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import pwd
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import codec, frames
from harness.collect.deadline import Killed, NotSeen, missing_from, python_module, run
from harness.collect.logs import read_regular
from harness.errors import RecordError
from harness.evidence import FlightDump, FlightEntry, Frame, Missing, Piece, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from harness.collect.procfs import Proc
    from harness.evidence import Process

MAX_DUMPS = 64
MAX_ENTRIES = 64
_MAX_FILE_BYTES = 16 * 2**20
_MAX_READ_ENTRIES = 100_000
_MAX_FOLDER = 50_000
_MEMORY_BYTES = 2**30
_CPU_SECONDS = 5
_MAX_TEXT = 300
# torch 2.9 and later; before that. Without them torch's own defaults, of the same two ages.
_NAMES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
_DEFAULTS = ("{home}/.cache/torch/comm_lib_trace_rank_", "/tmp/nccl_trace_rank_")  # noqa: S108 - torch's choice
NONE = Missing(
    reason="unavailable",
    detail="no dump: torch writes one when a collective times out, with TORCH_FR_BUFFER_SIZE=2000 set",
)
ANSWER: Any = Reading[tuple[FlightDump, ...]] | Missing


def read(
    proc: Proc, processes: Sequence[Process], owners: Collection[int], *, seconds: float
) -> tuple[FlightDump, ...]:
    """The dumps that these ranks' environment leads to; NotSeen where there is none."""
    paths = list(dict.fromkeys(_paths(proc, processes)))[:MAX_DUMPS]
    if not paths:
        raise NotSeen(NONE)
    asked = ",".join(map(str, sorted(owners)))
    command = python_module("harness.collect.flight", asked, *map(str, paths))
    done = run(command, seconds, max_bytes=8 * 2**20)
    if isinstance(done, Killed):
        raise NotSeen(Missing(reason="timed_out", detail=f"reading the dumps: {done.why}"))
    try:
        answer: Piece[tuple[FlightDump, ...]] = codec.loads(ANSWER, done.output)
    except RecordError:
        raise NotSeen(
            Missing(reason="unavailable", detail="reading the dumps failed: they are no dumps of torch's")
        ) from None
    if isinstance(answer, Missing):
        raise NotSeen(answer)
    return answer.value


def _paths(proc: Proc, processes: Sequence[Process]) -> Iterator[Path]:
    for prefix, process in dict(_prefixes(processes)).items():
        if not prefix.startswith("/"):
            if not isinstance(process.cwd, Reading):
                continue
            prefix = f"{process.cwd.value}/{prefix}"
        # Through the process's own root: in a container the same path is another file.
        for root in (str(proc.path(process.pid, "root")), ""):
            found = sorted(_numbered(Path(root + prefix)))
            if found:
                yield from found
                break


def _prefixes(processes: Sequence[Process]) -> Iterator[tuple[str, Process]]:
    for process in processes:
        environment = process.environment.value if isinstance(process.environment, Reading) else {}
        named = next((environment[name] for name in _NAMES if environment.get(name)), None)
        if named is not None:
            yield named, process
        elif environment.get("WORLD_SIZE", "1") != "1":
            home = _home(process)
            yield from ((each.format(home=home), process) for each in _DEFAULTS if home or "{" not in each)


def _home(process: Process) -> str:
    try:
        return pwd.getpwuid(process.uid.value).pw_dir if isinstance(process.uid, Reading) else ""
    except KeyError:
        return ""


def _numbered(prefix: Path) -> Iterator[Path]:
    """The files of this prefix that end with a rank."""
    try:
        with os.scandir(prefix.parent) as entries:
            for entry in itertools.islice(entries, _MAX_FOLDER):
                number = entry.name.removeprefix(prefix.name)
                if entry.name.startswith(prefix.name) and number.isdecimal() and len(number) < 7:
                    yield Path(entry.path)
    except OSError:
        return


# ── the child ───────────────────────────────────────────────────────────────────────────────────────────────


class _Unpickler(pickle.Unpickler):
    """Dictionaries, lists, tuples, numbers and text: c10d's pickler writes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002 - its name is pickle's
        raise pickle.UnpicklingError("it leads elsewhere")


def parse(data: bytes) -> dict[str, Any]:
    """A dump, pickle or JSON, as plain data; ValueError for anything else."""
    try:
        found = json.loads(data) if data[:1] == b"{" else _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # noqa: BLE001 - a pickle can fail in every way there is
        raise ValueError(f"no dump of the flight recorder: {type(error).__name__} {error}"[:200]) from None
    if not isinstance(found, dict) or not isinstance(found.get("entries"), list):
        raise ValueError("no dump of the flight recorder: it has no entries")  # noqa: TRY004 - of a file
    return found


def dump_of(path: Path, owners: Collection[int]) -> FlightDump:
    """One rank's dump; OSError, NotSeen or ValueError where there is none to be had."""
    data, facts = read_regular(path, owners, last_bytes=_MAX_FILE_BYTES)
    if facts.st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_FILE_BYTES} bytes")
    found = parse(data)
    entries = [each for each in map(entry, found["entries"][-_MAX_READ_ENTRIES:]) if each is not None]
    digits = len(path.name) - len(path.name.rstrip("0123456789"))
    return FlightDump(
        rank=int(path.name[-digits:]),
        ranks=_ranks(found.get("pg_config")),
        path=str(path),
        modified_wall_seconds=facts.st_mtime,
        version=_text(found.get("version")),
        entries=tuple(entries[-MAX_ENTRIES:]),
    )


def entry(raw: object) -> FlightEntry | None:
    """One collective; None for sends and receives, and for what is none."""
    if not isinstance(raw, dict) or raw.get("is_p2p") is True:
        return None
    sequence, names = raw.get("collective_seq_id"), raw.get("process_group")
    if type(sequence) is not int or not 0 <= sequence < 2**62:
        return None
    where = _user_frame(raw.get("frames"))
    return FlightEntry(
        group=_text(names[0]) if isinstance(names, (list, tuple)) and names else _text(names),
        sequence=sequence,
        operation=_text(raw.get("profiling_name")).rpartition(":")[2],
        sizes=_sizes(raw.get("input_sizes")),
        pending=raw.get("state") != "completed" and raw.get("retired") is not True,
        file=where.file,
        line=where.line,
        function=where.function,
    )


def _user_frame(raw: object) -> Frame:
    found = []
    for each in raw[:64] if isinstance(raw, list) else ():
        if isinstance(each, dict):
            line = each.get("line")
            found.append(
                Frame(
                    function=_text(each.get("name")),
                    file=_text(each.get("filename")),
                    line=line if type(line) is int and 0 <= line < 2**31 else 0,
                )
            )
    return frames.blamed(found) or Frame(function="", file="", line=0)


def _sizes(raw: object) -> str:
    """`[4] [2, 3]`; built by hand, since printing what a stranger nested may never end."""
    shapes = raw[:4] if isinstance(raw, (list, tuple)) else ()
    return " ".join(
        f"[{', '.join(str(size) for size in each[:8] if type(size) is int and size < 2**62)}]"
        for each in shapes
        if isinstance(each, (list, tuple))
    )


def _ranks(raw: object) -> int:
    """How many ranks the largest group has: `ranks` is the text of a list."""
    counts = [0]
    for each in list(raw.values())[:64] if isinstance(raw, dict) else ():
        text = each.get("ranks") if isinstance(each, dict) else None
        if isinstance(text, str):
            counts.append(text[: 2**20].count(",") + 1 if text.strip("[] ") else 0)
    return max(counts)


def _text(raw: object) -> str:
    return raw[:_MAX_TEXT] if isinstance(raw, str) else ""


def answer(paths: Iterable[Path], owners: Collection[int]) -> Piece[tuple[FlightDump, ...]]:
    """All dumps that can be read; Missing with the first failure where none can."""
    read = [_read(path, owners) for path in paths]
    found = tuple(each for each in read if isinstance(each, FlightDump))
    return Reading(value=found) if found else next((each for each in read if isinstance(each, Missing)), NONE)


def _read(path: Path, owners: Collection[int]) -> FlightDump | Missing:
    try:
        return dump_of(path, owners)
    except ValueError as error:
        return Missing(reason="unavailable", detail=f"{path}: {error}")
    except (OSError, NotSeen) as error:
        return missing_from(error)


def main(arguments: Sequence[str]) -> None:
    """The child: uids that may own a dump, with commas, then paths."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    owners = {int(each) for each in arguments[0].split(",")}
    sys.stdout.buffer.write(codec.dumps(answer(map(Path, arguments[1:]), owners)))


if __name__ == "__main__":
    main(sys.argv[1:])
