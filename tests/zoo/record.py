"""Records Cases of the zoo into tests/cases/, with what is expected of each: the only writer of that folder.

python -m tests.zoo.record [NAME...]
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from harness import bundle, codec
from harness.evidence import Case, Missing, Reading
from harness.rules import diagnose
from tests.support import zoo
from tests.support.env import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence

CASES = REPOSITORY / "tests" / "cases"
PLACE = "/home/user/training"


def record(path: Path) -> bool:
    """One Case, if its verdict is the truth."""
    with zoo.running(path) as pid, tempfile.TemporaryDirectory() as kept:
        zoo.diagnose(pid, "--out", f"{kept}/case")
        case = bundle.load(Path(kept, "case"))
    folder = CASES / path.parent.name / path.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = codec.dumps(small(case, zoo.truth(path).get("keeps", ()))).replace(
        str(zoo.ZOO).encode(), PLACE.encode()
    )
    work = case.processes[0].cwd
    if isinstance(work, Reading) and work.value.startswith(tempfile.gettempdir()):
        data = data.replace(work.value.encode(), PLACE.encode())
    for ours, theirs in ((str(REPOSITORY), PLACE), (sys.prefix, "/usr"), (sys.base_prefix, "/usr")):
        data = data.replace(ours.encode(), theirs.encode())
    found = codec.loads(Case, data)
    verdict = diagnose(found).verdict
    truth = zoo.truth(path)
    right = verdict.state in _several(truth["state"]) and verdict.cause in _several(truth["cause"])
    (folder / "case.json").write_bytes(json.dumps(json.loads(data), separators=(",", ":")).encode())
    expected = {
        "state": verdict.state,
        "cause": verdict.cause,
        "blame": verdict.blame.function if verdict.blame else None,
        "line": verdict.blame.line if verdict.blame else None,
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    if not right:
        shutil.rmtree(folder)
    return right


def small(case: Case, keeps: Sequence[str] = ()) -> Case:
    """Without what no rule of this Case needs, and what would tell of the machine that it was made on."""
    none = Missing(reason="disabled", detail="not recorded")
    processes = tuple(
        dataclasses.replace(
            each,
            environment=Reading(
                value={k: v for k, v in each.environment.value.items() if k not in ("HF_HOME", "TERM")}
            )
            if isinstance(each.environment, Reading)
            else each.environment,
            cgroup=each.cgroup if "cgroup" in keeps else none,
            cwd=Reading(value=PLACE),
            executable=Reading(value="/usr/bin/python3"),
        )
        for each in case.processes
    )
    host = dataclasses.replace(case.host, name="box", boot_id=none, kernel="6.1", tools={})
    dropped = {name: none for name in ("artifacts", "disks", "gpus", "log", "pressure") if name not in keeps}
    return dataclasses.replace(case, processes=processes, host=host, errors=(), **dropped)


def _several(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    words = sys.argv[1:]
    for program in zoo.programs():
        if zoo.missing(program) is None and (not words or any(word in zoo.name(program) for word in words)):
            print("ok   " if record(program) else "WRONG", zoo.name(program), flush=True)
