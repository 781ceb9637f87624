"""The command line: one file per command, all listed in COMMANDS.

A command's module is imported when it is used, so that `harness --help` and every other command stay quick.
Not here: what any command does.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import importlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from harness.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

USAGE = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand: its module has `add_parser(subparsers)` and `run(args) -> int`."""

    name: str
    summary: str

    def load(self) -> ModuleType:
        """Import its module."""
        return importlib.import_module(f"harness.cli.{self.name}")


COMMANDS = (
    Command(name="run", summary="run a training, watched over: log, metrics, stalls, exit status"),
    Command(name="status", summary="where a run stands, from its files alone, running or dead"),
    Command(name="report", summary="a run on one page: curves, stages, ranks, incidents, what looked wrong"),
    Command(name="top", summary="a live view of a run, from its files alone, running or dead"),
    Command(name="watch", summary="watch a training that is already running and was not started by us"),
    Command(name="diagnose", summary="why a process does not move: state, cause, the line to look at"),
    Command(name="explain", summary="read back the evidence of an incident"),
    Command(name="smoke", summary="try every stage of a training, each within its budget"),
)

_EXAMPLES = """\
examples:
  harness run -- nsa train configs/quickstart.yaml     train, observed; everything lands in runs/latest
  harness run -- torchrun --nproc-per-node 4 train.py  any training command, all its ranks
  harness status                                       where runs/latest stands
  harness report                                       runs/latest as one HTML file
  harness top                                          see it move
  harness watch 4711                                   look after a run that is under way already
  harness diagnose 4711                                why it does not move: state, cause, line
  harness explain runs/latest/incidents/001            what was seen when it stalled
  harness smoke configs/smoke/cpu.yaml                 does every stage work here, before it counts?

`harness COMMAND --help` tells more."""


class _Parser(argparse.ArgumentParser):
    """Ends with one line on a mistake, and with the exit status of the command's contract."""

    usage_status: int = USAGE

    def error(self, message: str) -> NoReturn:
        self.exit(self.usage_status, f"{self.prog}: {message}. See `{self.prog} --help`\n")


class _Version(argparse.Action):
    """Prints the version; looked up only when asked for, since that is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            version = metadata.version("training-harness")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"harness {version}")
        parser.exit()


# For a terminal or a locale that has no better: what our lines are drawn with. Of names there is no end: "?".
_IN_ASCII = {"·": "-", "→": "->", "←": "<-", "…": "...", "─": "-", "✓": "+", "✗": "x"}
_NEEDED = ("prometheus_client", "psutil", "rich", "yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    _settle_streams()
    # Some that start us ignore it, and what is ignored is inherited: then no exit status of a child is kept.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = next((each for each in COMMANDS if arguments[:1] == [each.name]), None)
    try:
        args = _parser(chosen).parse_args(arguments)
        if chosen is None:
            args.parser.print_help(sys.stderr)
            return USAGE
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `harness status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if isinstance(error, OSError) and _output_is_stuck(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            print(f"harness: standard output cannot be written: {error.strerror}", file=sys.stderr)
            return HarnessError.exit_status
        if os.environ.get("HARNESS_TRACEBACK"):
            raise
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing in _NEEDED:
            print(
                f"harness: {missing} is not installed beside {sys.executable}: what is installed there with "
                "--no-deps is for trainers that emit. Use the harness of another environment, or install it "
                "here with what it needs",
                file=sys.stderr,
            )
            return HarnessError.exit_status
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            print(
                "harness: no thread can be started. Look at the limits on processes (ulimit -u) and at "
                "the memory",
                file=sys.stderr,
            )
            return HarnessError.exit_status
        if _folder_is_gone():
            print("harness: the current folder has been removed. cd to one that is there", file=sys.stderr)
            return HarnessError.exit_status if chosen is not None and chosen.name == "run" else USAGE
        print(
            f"harness: a fault of the harness itself ({type(error).__name__}: {error}). "
            "Please report it, with what HARNESS_TRACEBACK=1 shows",
            file=sys.stderr,
        )
        return HarnessError.exit_status


def _settle_streams() -> None:
    """See that there are standard streams, and that no character ends the program."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203 -- `>&-`: the next file opened would take its place, and be written to
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    codecs.register_error("harness", _plainly)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 -- open as long as the program
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="harness")


def _output_is_stuck(error: OSError) -> bool:
    """Whether what was printed cannot be written: it is still held then, and fails again."""
    if getattr(sys.stdout, "write_through", False):  # python -u: nothing is held
        return error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What is written instead of characters that the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_IN_ASCII.get(each, "?") for each in error.object[error.start : error.end]), error.end


def _folder_is_gone() -> bool:
    try:
        Path.cwd()
    except OSError:
        return True
    return False


def _parser(chosen: Command | None) -> _Parser:
    """The parser of the chosen command alone, or one that only lists them all."""
    parser = _Parser(
        prog="harness",
        description="Watches any training process from outside: it notices a stall in seconds, "
        "keeps the evidence, and never hurts the run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    parser.set_defaults(parser=parser)
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands", dest="command_name")
    if chosen is not None:
        module = chosen.load()
        module.add_parser(subparsers)
        command = subparsers.choices[chosen.name]
        command.set_defaults(run=module.run)
        # An unknown option is found out by the outer parser: it speaks for the command.
        parser.prog, parser.usage_status = command.prog, command.usage_status
        return parser
    for each in COMMANDS:
        subparsers.add_parser(each.name, help=each.summary)
    return parser
