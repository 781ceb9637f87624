"""`harness report RUN_DIR`: the whole run on one page, in one file that can be sent to a colleague.

Exit status: 0 the page is written, 2 no such run, 125 it cannot be written where it should be. Not here:
reading the run (`harness.report`), the page (`harness.render.report`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import options
from harness.errors import HarnessError, UsageError
from harness.render.text import single_line, size

if TYPE_CHECKING:
    from harness.render.report import Assets

_PROGRESS_AFTER_SECONDS = 2.0
_PROGRESS_EVERY_SECONDS = 0.2

_EPILOG = """\
The page needs no network and no server: curves, stages, ranks, every incident with its verdict, what looked
wrong, configuration and versions. Secrets are struck out as far as they can be recognised. It works on a run
that goes on (as it is now), died, or never called harness.emit.

exit status: 0 written · 2 there is no such run · 125 it cannot be written there"""


class _NotWrittenError(HarnessError):
    """The page could not be put where it should be."""

    remedy = "Name another file: --out FILE"


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "report",
        description="A run as one HTML file that can be sent to a colleague.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_run_dir(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="report.html in the run directory unless named"
    )


def run(args: argparse.Namespace) -> int:
    """Write it."""
    from harness.render import report as renderer
    from harness.report.gather import gather

    out: Path = args.out if args.out is not None else args.run_dir / "report.html"
    with contextlib.suppress(OSError):  # closed to this user: that is said where it is read or written
        if out.exists() and not out.is_file():  # never put a file in the place of /dev/null
            what = "a directory" if out.is_dir() else "not a regular file"
            raise UsageError(f"{out}: {what}", remedy="Name a file: --out FILE")
    progress = _Progress()
    try:
        found = gather(args.run_dir, progress.say)
        progress.say("drawing")
        text = renderer.page(found, assets())
    finally:
        progress.close()
    written = _write(out, text)
    print(f"{single_line(found.name)}: {single_line(renderer.summary(found))}")
    print(f"{single_line(str(out))} · {size(written)}")
    return 0


def assets() -> Assets:
    """What lies beside the renderer, which reads no files itself."""
    from harness.render.report import Assets

    folder = resources.files("harness.render") / "assets"

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    return Assets(
        uplot_script=text("uplot.js"),
        uplot_style=text("uplot.css"),
        script=text("report.js"),
        style=text("report.css"),
    )


def _write(path: Path, text: str) -> int:
    """Whole or not at all; how many bytes. Readable by its owner alone: logs and stacks stand in it."""
    data = text.encode("utf-8", "backslashreplace")
    named = path
    with contextlib.suppress(OSError):
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
    except OSError as error:
        raise _NotWrittenError(f"{named}: cannot be written: {error.strerror or error}") from None
    return len(data)


class _Progress:
    """One line on a terminal, once it takes longer than it should; nothing in a pipe."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._said = 0.0
        self._shown = False
        self._terminal = sys.stderr.isatty()

    def say(self, what: str) -> None:
        """What is being done now."""
        now = time.monotonic()
        if now - self._begun < _PROGRESS_AFTER_SECONDS or now - self._said < _PROGRESS_EVERY_SECONDS:
            return
        self._said = now
        if self._terminal:
            self._shown = True
            print(f"\r\x1b[Kreading {what}", end="", file=sys.stderr, flush=True)
        elif not self._shown:
            self._shown = True
            print("reading a long run …", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Wipe it."""
        if self._shown and self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
