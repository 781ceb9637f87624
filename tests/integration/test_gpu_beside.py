"""GPUs in /metrics, read beside the trainer: through a stand-in for the child that asks NVML, and for real.

The stand-in answers instead of `python -m harness.collect.gpu`; all else is a run as a user starts it.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from harness import codec
from harness.evidence import Gpu, GpuProcess, Missing, Reading
from tests.support import run as runs
from tests.support import stalls
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NOT_TOLD = Missing(reason="unavailable", detail="NVML: Not Supported")
IDLE = Gpu(
    index=0,
    uuid="GPU-0",
    name="NVIDIA A100",
    utilization_ratio=Reading(value=0.0),
    memory_used_bytes=Reading(value=2**20),
    memory_total_bytes=Reading(value=80 * 2**30),
    power_watts=Reading(value=60.0),
    temperature_celsius=_NOT_TOLD,
    performance_state=_NOT_TOLD,
    throttle_reasons=_NOT_TOLD,
    processes=Reading(value=()),
)
# A machine that has a driver, whose Python for the child is another program.
_HARNESS = """
import sys
from harness.collect import gpu
gpu._DRIVER_MARKS = ("/dev/null",)
sys.executable = {child!r}
from harness.cli import main
sys.exit(main())
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[runs.Run]:
    child = tmp_path / "python"
    answers = shlex.quote(str(tmp_path / "answers"))
    child.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f"*harness.collect.gpu*) until [ -e {answers} ]; do sleep 0.05; done\n"
        f"  while read -r _; do cat {answers}; done;;\n"
        f'*) exec {shlex.quote(sys.executable)} "$@";;\nesac\n'
    )
    child.chmod(0o755)
    started = runs.start(
        tmp_path / "run",
        *stalls.trainer("--steps", "100000", "--quiet"),
        options=("--metrics-port", "0"),
        harness=(sys.executable, "-c", _HARNESS.format(child=str(child))),
    )
    yield started
    started.clean_up()


def test_what_nvml_tells_is_served_with_the_rank_that_is_on_it(run: runs.Run, tmp_path: Path) -> None:
    stalls.wait_for_step(run.directory, 1)
    before = stalls.metrics(run)
    assert not [series for series in before if series.startswith("trainer_gpu")], "not known: no series"
    busy = dataclasses.replace(
        IDLE,
        index=1,
        name="NVIDIA H200",
        utilization_ratio=Reading(value=0.5),
        processes=Reading(value=(GpuProcess(pid=run.pid(), used_bytes=_NOT_TOLD),)),
    )
    answer = json.dumps(codec.encode(Reading(value=(IDLE, busy))))
    (tmp_path / "answers.new").write_text(answer + "\n")
    (tmp_path / "answers.new").rename(tmp_path / "answers")
    on_rank = 'trainer_gpu_utilization_ratio{gpu="1",rank="0"}'
    wait_for(lambda: on_rank in stalls.metrics(run), what="GPUs in the metrics")
    served = stalls.metrics(run)
    assert served[on_rank] == 0.5
    assert served['trainer_gpu_memory_total_bytes{gpu="0",rank=""}'] == 80 * 2**30
    assert served['trainer_gpu_power_watts{gpu="1",rank="0"}'] == 60.0
    assert not [each for each, n in served.items() if each.startswith("harness_collect_errors_total") and n]
    info = wait_for(
        lambda: [series for series in stalls.metrics(run) if 'device="NVIDIA H200"' in series],
        what="the device",
    )
    assert info[0].startswith("trainer_run_info{")


@pytest.mark.needs("nvidia")
def test_a_real_gpu_is_served(tmp_path: Path) -> None:
    started = runs.start(tmp_path / "run", *stalls.trainer("--quiet"), options=("--metrics-port", "0"))
    try:
        stalls.wait_for_step(started.directory, 1)
        wait_for(
            lambda: [name for name in stalls.metrics(started) if name.startswith("trainer_gpu_memory_total")],
            what="the GPU in the metrics",
        )
        served = stalls.metrics(started)
        assert not [
            each for each, n in served.items() if each.startswith("harness_collect_errors_total") and n
        ]
    finally:
        started.clean_up()
