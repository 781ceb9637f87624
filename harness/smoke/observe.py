"""Watching one stage from beside its supervisor: records, memory, metrics.

Everything is read from the stage's run directory, /proc and the metrics' own port, as a user could; what
cannot be read is left out. Not here: starting and ending the stage (`execution`), what it leaves behind
(`leftovers`), and judging (`expect`).
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from harness.errors import HarnessError, RecordError
from harness.render.text import single_line
from harness.rundir import RunDirectory
from harness.smoke.leftovers import Log, count_files, incidents, steps
from harness.smoke.observed import Observed
from harness.watch import heartbeat

if TYPE_CHECKING:
    from harness.rundir import RunRecord
    from harness.smoke.observed import EndedBy
    from harness.smoke.plan import Stage

_SAMPLE_SECONDS = 0.1
_TREE_SECONDS = 0.3
_TREE_SHARE = 20  # at most a twentieth of the time
_SCRAPE_SECONDS = 0.5
_SCRAPE_DEADLINE_SECONDS = 2.0
_MAX_SCRAPE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where a stage stands, for the terminal."""

    at: str = ""  # `train · step 12/60 · loss 4.81`
    resident_bytes: int | None = None


class StageWatch:
    """Looks at one run directory while its command runs."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDirectory(folder)
        self._record: RunRecord | None = None
        self._readers: dict[Path, heartbeat.Reader] = {}
        self._ranks: set[int] = set()
        self._stages: set[str] = set()
        self._stepping = False
        self._next_tree = self._next_sample = self._next_scrape = 0.0
        self._tree: list[psutil.Process] = []
        self._resident: list[int] = []
        self._resident_now: int | None = None
        self._resident_peak: int | None = None
        self._gpu: list[int] = []
        self._gpu_peak: int | None = None
        self._scrapes = 0
        self._series: set[str] = set()
        self._at = ""

    @property
    def pid(self) -> int | None:
        """The command's, once it runs."""
        attempt = self._record.last_attempt if self._record is not None else None
        return attempt.pid if attempt is not None else None

    @property
    def resident_peak_bytes(self) -> int | None:
        """Of all its processes together, so far."""
        return self._resident_peak

    def poll(self) -> Moment:
        """Look once; never waits longer than a scrape may take."""
        if self.pid is None or self._record is None or self._record.metrics_address is None:
            with contextlib.suppress(HarnessError):
                self._record = self.run.read()
        self._read_records()
        now = time.monotonic()
        if self.pid is not None and now >= self._next_tree:
            began = time.process_time()  # not the time in which others have the CPU
            self._tree = _tree(self.pid)
            taken = time.process_time() - began
            # On a machine of thousands of processes a look takes long: then fewer of them.
            self._next_tree = now + max(_TREE_SECONDS, _TREE_SHARE * taken)
        if now >= self._next_sample:
            self._next_sample = now + _SAMPLE_SECONDS
            self._sample()
        if now >= self._next_scrape:
            self._next_scrape = now + _SCRAPE_SECONDS
            self._scrape()
        return Moment(at=self._at, resident_bytes=self._resident_now)

    def ended_by_stall(self) -> bool:
        """Whether the supervisor ended the command because it stalled."""
        with contextlib.suppress(HarnessError):
            self._record = self.run.read()
        attempt = self._record.last_attempt if self._record is not None else None
        return attempt is not None and attempt.ended_by == "stall"

    def close(self) -> None:
        """Let go of the records."""
        for reader in self._readers.values():
            reader.close()

    def collect(
        self, stage: Stage, *, exit_status: int | None, ended_by: EndedBy, seconds: float
    ) -> Observed:
        """All that was seen, once the stage has ended."""
        self._read_records()
        with contextlib.suppress(HarnessError):
            self._record = self.run.read()
        rows, lost = steps(self.run.metrics)
        log = Log(stage.patterns)
        log.read(self.run.output_log)
        return Observed(
            exit_status=exit_status,
            ended_by=ended_by,
            seconds=seconds,
            last_line=log.last_line,
            ranks=len(self._ranks),
            stages=frozenset(self._stages),
            rows=rows,
            rows_lost=lost,
            schedule=self._record.schedule if self._record is not None else None,
            resident_peak_bytes=self._resident_peak,
            resident_bytes=tuple(self._resident),
            gpu_peak_bytes=self._gpu_peak,
            gpu_bytes=tuple(self._gpu),
            scrapes=self._scrapes,
            scraped_series=frozenset(self._series),
            incidents=tuple(incidents(self.run)),
            measured=log.measured,
            files={pattern: count_files(self.run.path, pattern) for pattern in stage.globs},
            log_lines=log.found,
        )

    def _read_records(self) -> None:
        with contextlib.suppress(OSError):
            for path in sorted(self.run.ranks.glob("*.beat")):
                reader = self._readers.get(path)
                if reader is not None and reader.replaced():
                    reader.close()
                    reader = None
                with contextlib.suppress(RecordError, OSError):
                    reader = self._readers[path] = reader or heartbeat.Reader(path)
                    self._take(reader)

    def _take(self, reader: heartbeat.Reader) -> None:
        drained, state = reader.drain(), reader.read()
        self._ranks.add(state.rank)
        self._stages.update(entry.stage for entry in (*drained.stages, *state.stages))
        self._stages.add(state.stage)
        for row in drained.rows:
            if row.memory is not None:
                allocated, reserved, peak = row.memory
                self._gpu_peak = max(self._gpu_peak or 0, reserved, peak)
                if state.rank == 0:
                    self._gpu.append(allocated)
        self._stepping = state.step is not None and state.closed_status is None
        if state.rank == 0:
            self._at = _at(state)

    def _sample(self) -> None:
        total = most = 0
        for process in self._tree:
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                total += process.memory_info().rss
                most = max(most, _high_water_bytes(process.pid))
        if total:
            self._resident_now = total
            # Between two samples a process may have held more than at either: the kernel remembers.
            self._resident_peak = max(self._resident_peak or 0, total, most)
            if self._stepping:
                self._resident.append(total)

    def _scrape(self) -> None:
        address = self._record.metrics_address if self._record is not None else None
        if address is None or self.pid is None:
            return
        # Whatever goes wrong, it was no scrape.
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            families = _families(address)
            self._series |= families
            self._scrapes += bool(families)


def _families(address: str) -> set[str]:
    """Names of the series that an address serves now."""
    from prometheus_client.parser import text_string_to_metric_families

    parts = urlsplit(address)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=_SCRAPE_DEADLINE_SECONDS
    )
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        text = answer.read(_MAX_SCRAPE_BYTES).decode()
    finally:
        connection.close()
    if answer.status != http.client.OK:
        return set()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except (psutil.Error, OSError):
        return []


def _high_water_bytes(pid: int) -> int:
    """The most that a process ever held (VmHWM), 0 where it cannot be read."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0


def _at(state: heartbeat.Heartbeat) -> str:
    """`train · step 12/60 · loss 4.81`."""
    parts = [state.stage]
    if state.step is not None:
        parts.append(f"step {state.step}" + (f"/{state.total_steps}" if state.total_steps else ""))
    if state.last is not None and state.last.loss is not None:
        parts.append(f"loss {state.last.loss:.3g}")
    return single_line(" · ".join(parts))
