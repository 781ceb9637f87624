"""Stage `import`: everything that a training imports, each by its name, and how long that takes."""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING

from nsa.report import say
from nsa.smoke.stage import SmokeError, measured

if TYPE_CHECKING:
    from nsa.smoke.stage import Task

MODULES = (
    "harness.emit",
    "numpy",
    "pyarrow.parquet",
    "pydantic",
    "yaml",
    "tokenizers",
    "torch",
    "transformers",
    "nsa.config",
    "nsa.data",
    "nsa.session",
    "nsa.loop",
)


def run(task: Task) -> None:  # noqa: ARG001 -- every stage has the same form
    """Import them in order; SmokeError names the first that cannot be."""
    began = time.monotonic()
    for name in MODULES:
        start = time.monotonic()
        try:
            importlib.import_module(name)
            if name == "transformers":
                _ = importlib.import_module(name).GPT2Tokenizer  # it imports its parts when asked for
        except ModuleNotFoundError as error:
            raise SmokeError(
                f"{name}: {error.name} is not installed. pip install 'training-harness[train]'"
            ) from None
        except Exception as error:  # noqa: BLE001 -- a broken library raises anything
            first = (str(error).splitlines() or ["no reason given"])[0]
            raise SmokeError(
                f"{name} cannot be imported: {type(error).__name__}: {first}. Install it again, or see"
                f" what else is called so: python -c 'import {name}'"
            ) from None
        say(f"{name}  {time.monotonic() - start:.2f} s")
    measured(import_seconds=time.monotonic() - began)
