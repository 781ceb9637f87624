"""What `harness.auto` costs a trainer: start-up before torch, and all hooks of a step, timed directly.

    python benchmarks/auto.py [--write] [--repeats N]

Start-up: fresh interpreters that import nothing, with and without, in turn. A step: the calls of one step of
a plain loop (batch, zero_grad, backward, clip, optimizer) over a model whose step takes about 5 ms: the time
inside the recorder, plus what the wrappers around the originals cost by themselves.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import support
from harness.supervise.instrumenting import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable

_STEP_SECONDS = 0.005
_WARM_STEPS = 50
_PROCESSES = 9
_METHODS = (
    "waits",
    "waited",
    "zeroed",
    "backward_begins",
    "backward_ends",
    "clipped",
    "optimizer_begins",
    "optimizer_ends",
)
_WRAPPERS = 6  # of a step: __next__, zero_grad, backward, clip_grad_norm_, the hooks before and after step


def _environment(run_dir: str, *, instrument: bool) -> dict[str, str]:
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HARNESS_RUN_DIR": run_dir}
    return {**env, **environment_of({}, instrument=instrument)}


def startup(repeats: int, folder: str) -> str:
    """Wall time of an interpreter that does nothing, with the hook and without."""
    samples: dict[bool, list[float]] = {False: [], True: []}
    code = "import time, os; print(time.clock_gettime(time.CLOCK_MONOTONIC))"
    for turn in range(repeats + 1):
        for instrument in (False, True):
            env = _environment(folder, instrument=instrument)
            begun = time.clock_gettime(time.CLOCK_MONOTONIC)
            done = subprocess.run(
                [sys.executable, "-c", code], env=env, check=True, capture_output=True, timeout=60
            )
            if turn:  # the first writes the byte code
                samples[instrument].append(float(done.stdout) - begun)
    over = [a - b for a, b in zip(samples[True], samples[False], strict=True)]
    middle, low, high = support.spread(over)
    bare = support.spread(samples[False])[0]
    return (
        f"Start-up before torch: {middle * 1e3:.2f} ms (10-90 %: {low * 1e3:.2f} to {high * 1e3:.2f}) "
        f"over a bare interpreter's {bare * 1e3:.1f} ms; aim: 15 ms."
    )


def steps(repeats: int, folder: str) -> str:
    """All hooks of a step, timed directly, over a step; in fresh processes, one after another.

    What neighbours leave of the caches differs more from one moment to the next than anything of ours does.
    """
    runs = [_inside(repeats, folder) for _ in range(_PROCESSES)]
    hooks = support.spread([each for run in runs for each in run["hooks"]])
    step = support.spread([each for run in runs for each in run["steps"]])
    rows = [
        ["all hooks of a step", f"{hooks[0] * 1e6:.1f}", f"{hooks[1] * 1e6:.1f}-{hooks[2] * 1e6:.1f}"],
        ["the step", f"{step[0] * 1e6:.0f}", f"{step[1] * 1e6:.0f}-{step[2] * 1e6:.0f}"],
    ]
    shares = sorted(support.spread(run["hooks"])[0] / support.spread(run["steps"])[0] for run in runs)
    each = ", ".join(f"{share:.2%}" for share in shares)
    return (
        support.table(["", "median µs", "10-90 %"], rows)
        + f"\n\nShare of the step, process by process: {each}; in all: {hooks[0] / step[0]:.2%}; "
        f"of a step of 5 ms: {hooks[0] / _STEP_SECONDS:.2%}; aim: 1 %."
    )


def _inside(repeats: int, folder: str) -> dict[str, list[float]]:
    done = subprocess.run(
        [sys.executable, __file__, "--inside", str(repeats)],
        env=_environment(folder, instrument=True),
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def inside(repeats: int) -> None:
    """In the instrumented process: what the recorder is told in a step is timed around each call.

    The timer's own share is taken off: the same steps, with calls that do nothing in the recorder's place.
    """
    import torch  # noqa: F401 (it is what brings the recorder)

    recorder = next(each for each in sys.meta_path if hasattr(each, "_recorder"))._recorder  # noqa: SLF001 (what is measured)
    timer, _ = _train(repeats, _time_calls_of(recorder, silent=True))
    for name in _METHODS:
        delattr(recorder, name)
    hooks, steps = _train(repeats, _time_calls_of(recorder))
    if not recorder.on:
        raise SystemExit("the hooks switched themselves off")
    ours = _WRAPPERS * _wrapper_seconds() - support.spread(timer)[0]
    print(json.dumps({"hooks": [each + ours for each in hooks], "steps": steps}))


def _train(repeats: int, spent: list[float]) -> tuple[list[float], list[float]]:
    """Seconds in what is timed, and of the whole, for each of so many steps."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(10)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = torch.utils.data.TensorDataset(torch.randn(1024, 256))
    within: list[float] = []
    whole: list[float] = []
    while len(whole) < _WARM_STEPS + repeats:
        begun, before = time.perf_counter(), spent[0]
        for (batch,) in torch.utils.data.DataLoader(data, batch_size=64):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            now = time.perf_counter()
            whole.append(now - begun)
            within.append(spent[0] - before)
            begun, before = time.perf_counter(), spent[0]
    return within[_WARM_STEPS:], whole[_WARM_STEPS:]


def _time_calls_of(recorder: object, *, silent: bool = False) -> list[float]:
    """Add up, in the list returned, the time of every outermost call of what hooks call in a step."""
    spent, within = [0.0], [False]

    def timed(method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if within[0]:
                return method(*args, **kwargs)
            within[0] = True
            begun = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - begun
                within[0] = False

        return call

    def nothing(*args: object, **kwargs: object) -> bool:  # noqa: ARG001 (what is called has them)
        return True

    for name in _METHODS:
        setattr(recorder, name, timed(nothing if silent else getattr(recorder, name)))
    return spent


@cache
def _wrapper_seconds() -> float:
    """A wrapper by itself: a call more, and the question whether something is being compiled."""
    import torch

    def bare() -> None: ...

    @functools.wraps(bare)
    def wrapper(*args: object, **kwargs: object) -> None:
        try:
            if not torch.compiler.is_dynamo_compiling():
                bare(*args, **kwargs)
        finally:
            pass

    def seconds(call: Callable[[], None]) -> float:
        begun = time.perf_counter()
        for _ in range(10_000):
            call()
        return (time.perf_counter() - begun) / 10_000

    return min(seconds(wrapper) for _ in range(5)) - min(seconds(bare) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="add the results to benchmarks/results")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside is not None:
        inside(args.inside)
        return
    busy = support.load()
    with tempfile.TemporaryDirectory() as folder:
        body = f"{startup(args.repeats, folder)}\n\n{steps(5 * args.repeats, folder)}\n\n({busy})"
    support.report("auto", body, write=args.write)


if __name__ == "__main__":
    main()
