"""A run directory turned into a Report: everything is read once, bounded, and nothing is changed.

Works on a run that goes on, died half-way, never emitted, or lies on another machine: what is not there is
named with its reason. Not here: judging (`judge`), the page (`harness.render.report`).
"""

from __future__ import annotations

import shlex
import time
from importlib import metadata
from typing import TYPE_CHECKING

from harness.redaction import strike_out, strike_out_text
from harness.report import events, incidents, ranks
from harness.report.facts import AttemptFacts, File, Report
from harness.report.history import Recorder
from harness.report.judge import Ending, RateWatch, remarks
from harness.report.rows import RowReader
from harness.rundir import RunDirectory, seconds_of
from harness.supervise.standing import ending_words, stand
from harness.watch.logend import tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from harness.report.history import History, Lap
    from harness.rundir import RunRecord
    from harness.supervise.standing import Standing

LOG_LINES = 60
_LINE_CHARACTERS = 2_000
_FILE_BYTES = 256 << 10
_FILES = 4


def gather(path: Path, said: Callable[[str], None] = lambda _: None) -> Report:
    """Everything about the run in `path`; UsageError or RecordError where there is none.

    `said` is told what is being read.
    """
    standing = stand(path)
    record, run = standing.record, RunDirectory(path)
    taken = time.time()
    found = events.read(run)
    rank_facts, rank_count, last_stages, problems = ranks.read(run.ranks, said)
    beat = standing.beat
    schedule = (beat.schedule if beat is not None else None) or record.schedule
    history, rates = _history(run, schedule, said)
    attempts = tuple(_attempts(standing, history, taken))
    begin = min((each.begin_seconds for each in attempts), default=seconds_of(record.created_at))
    end = max((each.end_seconds or taken for each in attempts), default=taken)
    known = set(found.stages)
    if beat is not None:  # of runs whose supervisor did not keep them, the last ones
        known |= {(round(each.entered_wall_seconds, 3), beat.attempt, each.stage) for each in last_stages}
    incident_facts, incident_count = incidents.read(run, said)
    target = (beat.total_steps if beat is not None else None) or record.target_steps
    ending = Ending(
        state=standing.state,
        end_seconds=end,
        checkpoints=tuple(found.checkpoints),
        schedule=schedule,
        target_steps=target,
    )
    files = tuple(_files(run))
    log = tuple(
        strike_out_text(line[:_LINE_CHARACTERS].decode("utf-8", "replace"))
        for line in tail(run.output_log, LOG_LINES)
    )
    return Report(
        name=record.name,
        run_id=record.run_id,
        state=standing.state,
        sentence=standing.sentence,
        where=str(path),
        host=record.host,
        cwd=record.cwd,
        command=strike_out(record.command)[0],
        taken_seconds=taken,
        begin_seconds=begin,
        end_seconds=max(begin, end),
        target_steps=target,
        schedule=schedule,
        history=history,
        remarks=remarks(history, rates, ending),
        attempts=attempts,
        spans=events.spans(
            sorted(known),
            [(each.attempt, each.begin_seconds, each.end_seconds or taken) for each in attempts],
        ),
        evaluations=events.thinned(found.evaluations),
        checkpoints=tuple(found.checkpoints),
        ranks=rank_facts,
        rank_count=rank_count,
        incidents=incident_facts,
        incident_count=incident_count,
        facts=tuple(_facts(record)),
        files=files,
        log=log,
        missing=tuple(_missing(history, standing, problems, files, log)),
        harness_version=_version(),
    )


def _history(
    run: RunDirectory, schedule: Mapping[str, Any] | None, said: Callable[[str], None]
) -> tuple[History, RateWatch]:
    reader = RowReader(run.metrics, lambda share: said(f"metrics.jsonl {share:.0%}"))
    recorder, rates = Recorder(), RateWatch(schedule=schedule)
    for rows in reader.runs():
        recorder.add(rows)
        rates.see(rows)
    history = recorder.history(
        rows_lost=reader.rows_lost, unreadable_lines=reader.unreadable_lines, problem=reader.problem
    )
    return history, rates


def _attempts(standing: Standing, history: History, taken: float) -> Iterator[AttemptFacts]:
    reached: int | None = None
    for each in standing.record.attempts:
        mine = [lap for lap in history.laps if lap.attempt == each.attempt]
        running = each is standing.record.last_attempt and standing.pid is not None
        begin = seconds_of(each.started_at)
        end = seconds_of(each.ended_at) if each.ended_at is not None else None
        steps = (mine[0].first_step, max(lap.last_step for lap in mine)) if mine else None
        yield AttemptFacts(
            attempt=each.attempt,
            begin_seconds=begin,
            end_seconds=end if end is not None else None if running else _last_sign(mine, standing, taken),
            ending="runs" if running else ending_words(each),
            steps=steps,
            repeated=max(0, reached - steps[0] + 1) if steps and reached is not None else 0,
        )
        if steps:
            reached = max(steps[1], reached or 0)


def _last_sign(laps: Sequence[Lap], standing: Standing, taken: float) -> float:
    """When an attempt was last heard of whose end nobody saw."""
    signs = [lap.last_seconds for lap in laps]
    signs += [beat.last_progress_wall_seconds for beat in standing.beats]
    return min(taken, max(signs, default=taken))


def _facts(record: RunRecord) -> Iterator[tuple[str, str]]:
    yield "run id", record.run_id
    yield "host", record.host
    yield "directory", record.cwd
    yield "command", shlex.join(strike_out(record.command)[0])
    git = record.git
    commit, why = git.get("commit"), git.get("reason")
    if commit:
        yield "commit", f"{commit}" + (" · with uncommitted changes" if git.get("dirty") else "")
    elif why:
        yield "commit", f"unknown: {why}"
    versions = record.versions
    if "harness" in versions:
        yield "harness", f"{versions['harness']} · Python {versions.get('harness_python', '?')}"
    command = versions.get("command")
    if isinstance(command, dict):
        if "python" in command:
            yield "Python", f"{command['python']} · {command.get('interpreter', '')}"
        packages = command.get("packages")
        if isinstance(packages, dict):
            yield "packages", " · ".join(f"{name} {version}" for name, version in packages.items())
        if "reason" in command:
            yield "versions", f"unknown: {command['reason']}"
    if isinstance(record.environment, dict):
        kept = [f"{name}={strike_out_text(str(value))}" for name, value in sorted(record.environment.items())]
        if kept:
            yield "environment", " ".join(kept)


def _files(run: RunDirectory) -> Iterator[File]:
    """The copies that the supervisor made when the run began."""
    try:
        paths = sorted(run.configuration.iterdir())[:_FILES]
    except OSError:
        return
    for path in paths:
        try:
            if path.is_symlink() or not path.is_file():
                continue
            with path.open("rb") as file:
                data = file.read(_FILE_BYTES + 1)
        except OSError:
            continue
        note = "only its beginning is shown" if len(data) > _FILE_BYTES else None
        text = data[:_FILE_BYTES].decode("utf-8", "replace")
        yield File(name=path.name, text=strike_out_text(text), note=note)


def _missing(
    history: History,
    standing: Standing,
    problems: Sequence[str],
    files: Sequence[File],
    log: Sequence[str],
) -> Iterator[tuple[str, str]]:
    if history.problem:
        yield "steps", history.problem
    if not standing.beats and not problems:
        yield "ranks", "the command never called harness.emit: stages, steps and ranks are unknown"
    for each in problems[:5]:
        yield "a rank", each
    if not files:
        yield "configuration", "the command line names no configuration file that could be read"
    if not log:
        yield "log", "the command wrote nothing, or its log is gone"
    for note in standing.notes:
        yield "note", note


def _version() -> str:
    try:
        return metadata.version("training-harness")
    except metadata.PackageNotFoundError:
        return "not installed"
