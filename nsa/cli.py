"""The command line `nsa`: parsing, one line for every mistake, exit statuses.

Covers `nsa train` and `nsa data fetch`. Imports neither torch nor pydantic until a command needs it, so that
help and mistakes answer at once. Not here: what the commands do (nsa.train, nsa.data).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nsa.errors import NsaError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_INTERRUPTED = 130
_ASSIGNMENT = re.compile(r"[a-z_]+(\.[a-z_]+)*=")

_DESCRIPTION = "Train a Native Sparse Attention language model."

_EXIT_STATUSES = """\
exit status:
  0   done
  1   something else failed: a full disk, a lost rank, too little memory
  2   the configuration or the command line is wrong; one line says where
  3   the loss or the gradient became NaN or infinite; nothing is saved then
  4   the source of the text is out of reach
  75  stopped by SIGTERM or Ctrl-C, state saved: start again with the same --out
      (a second signal ends at once, without saving)
  130 interrupted before the training began
"""

_TRAIN = """\
Train by CONFIG, a YAML file (see configs/), checked before torch is loaded.

The run's files go to --out: checkpoints/, metrics.jsonl, tensorboard/ if asked
for. Start the same command with the same --out again, and it continues where it
was, to the bit.
"""

_TRAIN_EXAMPLES = """\
examples:
  nsa train configs/quickstart.yaml
  nsa train configs/quickstart.yaml --set train.steps=200 train.threads=1
  nsa train configs/m7c_125m.yaml --out runs/m7c     # again, to continue
  harness run -- nsa train configs/quickstart.yaml   # watched, with metrics
  torchrun --nproc-per-node 2 -m nsa train configs/m7c_125m.yaml --out runs/m7c

"""

_FETCH = """\
Copy documents of a source into local parquet files, for use without a network.
Train on them with:  --set data.source=files --set 'data.paths=[OUT/*.parquet]'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed: the next file opened would take its place
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 (open as long as the program)
        stream = getattr(sys, name)
        # A file or a pipe would hold lines back for kilobytes: a run's log has to say where it is.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # And no terminal's encoding is a reason to lose a line with a "·" in it.
            reconfigure(line_buffering=True, errors="backslashreplace")
    options = build_parser().parse_args(_spread(sys.argv[1:] if arguments is None else arguments))
    try:
        Path.cwd()
    except OSError:  # torch's own libraries cannot be loaded then
        _complain("the current folder has been removed. cd to one that is there")
        return 2
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except NsaError as error:
        _complain(str(error))
        return error.exit_status
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"nsa", "harness"}:
            raise
        _complain(
            f"{error.name} is not installed: training needs the extra. pip install 'training-harness[train]'"
        )
        return 2
    except KeyboardInterrupt:
        # What still reads from a network is waited for at the end; whoever will not wait asks once more.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _complain("interrupted: there was nothing to save")
        return _INTERRUPTED
    finally:
        _settle()


def _spread(arguments: Sequence[str]) -> list[str]:
    """`--set a=1 b=2` as `--set a=1 --set b=2`; argparse would take a CONFIG behind it for one more."""
    spread: list[str] = []
    for word in arguments:
        if _ASSIGNMENT.match(word) and len(spread) > 1 and spread[-2] == "--set":
            spread.append("--set")
        spread.append(word)
    return spread


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads: the exit status still tells
        sys.stderr.write(text + "\n")


def _settle() -> None:
    """Keep a closed pipe or a full disk behind standard output from changing the exit status."""
    from nsa.report import settle_output

    settle_output()


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(
        prog="nsa",
        description=_DESCRIPTION,
        epilog=_EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, and end")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    _add_data(commands)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked: importlib.metadata takes longer than the rest of the parser."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            version = metadata.version("training-harness")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"nsa {version}")
        parser.exit()


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from nsa.train import CHANGEABLE

    train = commands.add_parser(
        "train",
        help="train a model by a configuration",
        description=_TRAIN,
        epilog=_TRAIN_EXAMPLES + _EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "config", metavar="CONFIG", type=Path, help="the YAML file, for instance configs/quickstart.yaml"
    )
    _add_set(train)
    train.add_argument(
        "--resume",
        metavar="auto|never|PATH",
        default="auto",
        help="auto (default): continue from the newest whole checkpoint in --out, if there is one;"
        " never: begin at step 0, and set checkpoints that are there aside;"
        " PATH: continue from that checkpoint, or the newest below that folder",
    )
    train.add_argument(
        "--allow-changed",
        metavar="SECTION",
        action="append",
        default=[],
        choices=CHANGEABLE,
        help="resume although this differs from the checkpoint: schedule, batch, optimizer or precision;"
        " may be repeated. Without it a change is refused",
    )
    train.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder of the run (default: the harness's run directory under `harness run`,"
        " else a new runs/<UTC time>-<name>)",
    )
    train.set_defaults(run=_train)


def _add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    data = commands.add_parser(
        "data", help="look after training text", description="Look after training text."
    )
    actions = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    fetch = actions.add_parser(
        "fetch",
        help="stage documents of a source as local parquet",
        description=_FETCH,
        epilog="example:\n  nsa data fetch configs/m7c_125m.yaml --documents 20000 --out data/fineweb\n\n"
        + _EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.add_argument(
        "config", metavar="CONFIG", type=Path, help="a YAML file; its section data names the source"
    )
    _add_set(fetch)
    fetch.add_argument("--documents", metavar="N", type=_count, required=True, help="how many documents")
    fetch.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the parquet files")
    fetch.set_defaults(run=_fetch)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a key of CONFIG, for instance train.steps=500, or several; the value is YAML",
    )


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def _train(options: argparse.Namespace) -> int:
    from nsa import train

    train.run(
        train.Options(
            config=options.config,
            overrides=tuple(options.overrides),
            resume=options.resume,
            allow_changed=tuple(options.allow_changed),
            out=options.out,
            begun_wall_seconds=_begun(),
        )
    )
    return 0


def _begun() -> float | None:
    """When a supervisor that has started this command again started it first."""
    try:
        return float(os.environ["HARNESS_RESTARTED_SINCE"])
    except (KeyError, ValueError):
        return None


def _fetch(options: argparse.Namespace) -> int:
    from nsa import config as configuration

    config = configuration.load(options.config, options.overrides)
    from nsa.data import fetch
    from nsa.report import say

    place = fetch(config.data, options.out, options.documents, progress=say)
    say(f"fetched into {place}")
    say(f"train on it with: --set data.source=files --set 'data.paths=[{options.out}/*.parquet]'")
    if config.tokenizer.kind == "gpt2" and config.tokenizer.path is None:
        say(
            "its tokenizer comes from the hub too: hf download openai-community/gpt2 vocab.json merges.txt"
            " --local-dir DIR, and --set tokenizer.path=DIR"
        )
    return 0
