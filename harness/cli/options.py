"""Options that several commands share, and how their values are read.

Not here: what any of them does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.sizes import bytes_of

DEFAULT_PORT = 14090
LATEST_RUN = Path("runs/latest")


def add_run_dir(parser: argparse._ActionsContainer) -> None:
    """The run to tell of."""
    parser.add_argument(
        "run_dir", nargs="?", type=Path, default=LATEST_RUN, help=f"{LATEST_RUN} unless named"
    )


def add_stall_timeout(parser: argparse._ActionsContainer) -> None:
    """Limits of the user's own."""
    parser.add_argument(
        "--stall-timeout",
        metavar="STAGE=SECONDS,...",
        help="limits of your own, instead of those learned from the run",
    )


def add_metrics(parser: argparse._ActionsContainer) -> None:
    """Where metrics are served, and to whom."""
    parser.add_argument(
        "--metrics-port",
        type=port,
        default=DEFAULT_PORT,
        metavar="PORT",
        help=f"{DEFAULT_PORT}; 0: any free one; off: none",
    )
    parser.add_argument(
        "--metrics-address", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1)"
    )
    parser.add_argument(
        "--metrics-token-file",
        type=Path,
        metavar="FILE",
        help="scrapers have to show this token; for other addresses",
    )
    parser.add_argument(
        "--metrics-certificate", type=Path, nargs=2, metavar=("CHAIN", "KEY"), help="serve by TLS; PEM files"
    )
    parser.add_argument(
        "--port-taken",
        choices=("next", "fail"),
        default="next",
        help="if it is: take a free one, or end (next)",
    )


def add_announce(parser: argparse._ActionsContainer) -> None:
    """Where Prometheus' file discovery looks."""
    parser.add_argument(
        "--announce",
        type=Path,
        metavar="DIR",
        help="write a file of targets for Prometheus (file_sd_configs) here, and remove it at the end",
    )


def size(text: str) -> int:
    """`500M`, `2G`, `1.5 GiB`."""
    value = bytes_of(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 500M or 2G")
    return value


def restarts(text: str) -> int:
    """How many, from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of restarts: write 0 or more")
    return int(text)


def seconds(text: str) -> float:
    """A time from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds: write 0 or more")
    return value


def port(text: str) -> int | None:
    """A port, or `off`."""
    if text == "off":
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: write a number up to 65535, or off")
    return int(text)


def name(text: str) -> str:
    """What becomes part of a path and a label of metrics."""
    from harness.rundir import clean_name

    if not text or clean_name(text) != text:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be a name: use at most 60 letters, digits, dots, dashes and underscores"
        )
    return text


def pid(text: str) -> int:
    """A process id."""
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no process id: write a number, such as 4711")
    return int(text)
