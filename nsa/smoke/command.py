"""The command line of the stages, all listed in STAGES, and what is said when one fails.

Not here: what any stage does.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nsa.errors import NsaError
from nsa.smoke.stage import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each is a module of this package with `run(task)`; torch is imported where it is needed.
STAGES = (
    "environment",
    "imports",
    "settings",
    "tokenizing",
    "loading",
    "model",
    "attention",
    "overfit",
    "training",
    "resuming",
    "distributed",
    "drill",
)
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; the exit status."""
    # OpenMP reads it when torch loads it; see decision 0007.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = _parser().parse_args(arguments)
    overrides = [] if options.device == "auto" else [f"train.device={options.device}"]
    if options.dtype is not None:
        overrides.append(f"train.dtype={options.dtype}")
    task = Task(
        config=options.config,
        overrides=(*overrides, *options.overrides),
        device=options.device,
        out=Path(os.environ.get("HARNESS_RUN_DIR", options.out)),
        steps=options.steps,
        rate=options.rate,
        floor_ratios=options.floor_ratio,
    )
    try:
        importlib.import_module(f"nsa.smoke.{options.stage}").run(task)
        sys.stdout.flush()
    except NsaError as error:
        _complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        _complain("interrupted")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 -- told in a line; its traceback is the log's
        named = _named(error)
        if named is None:
            traceback.print_exc()  # the log's; the last line is the report's
            frame = traceback.extract_tb(error.__traceback__)[-1]
            first = (str(error).splitlines() or [""])[0]
            named = f"{type(error).__name__}: {first} (at {frame.filename}:{frame.lineno} in {frame.name})"
        _complain(named)
        return 1
    return 0


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads: the exit status still tells
        sys.stderr.write(text + "\n")


def _named(error: Exception) -> str | None:
    """What can be said better than by its traceback."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith(("nsa", "harness")):
        return (
            f"{error.name} is not installed: training needs the extra. pip install 'training-harness[train]'"
        )
    if "torch" in sys.modules:
        from nsa.device import out_of_memory

        return out_of_memory(error)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nsa.smoke",
        description="Try one part of a training by itself, with its configuration.",
    )
    parser.add_argument("stage", metavar="STAGE", choices=STAGES, help=", ".join(STAGES))
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a configuration of nsa train")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="instead of the configuration's")
    parser.add_argument("--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--out", default=".", metavar="DIR", help="where files go, outside `harness run` (.)")
    parser.add_argument("--steps", type=int, metavar="N", help="batches or steps to try")
    parser.add_argument("--rate", type=float, metavar="LR", help="overfit: instead of the schedule's peak")
    parser.add_argument(
        "--floor-ratio",
        type=_ratios,
        default={},
        metavar="fp32=RATIO,bf16=RATIO|none",
        help="training: the least share of the device's peak that counts as healthy",
    )
    return parser


def _ratios(text: str) -> dict[str, float]:
    """`fp32=0.03,bf16=0.003`, or `none`."""
    try:
        parts = [part.split("=") for part in text.split(",")] if text != "none" else []
        return {dtype: float(ratio) for dtype, ratio in parts}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not fp32=RATIO,bf16=RATIO or none") from None
