"""Makes the pictures of the README from a real run: `python docs/pictures/make.py [RUN_DIR]`.

Without RUN_DIR it trains the quickstart, stops it for some seconds (an incident), kills it and continues it:
about four minutes on two cores. Needs the trainer's packages for that, and Chromium for the pictures. A new
picture is one more function in PICTURES: it gets the run directory. `harness top` is shown while it goes on.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
sys.path.insert(0, str(REPOSITORY))

from tests.support import chromium
from tests.support.env import clean_env

HARNESS = (sys.executable, "-m", "harness")
TRAIN = ("nsa", "train", "configs/quickstart.yaml", "--set", "train.threads=1")


def the_run(run_dir: Path) -> None:
    """A quickstart with an incident and a second attempt."""
    first = _start(run_dir, *TRAIN)
    _until_step(run_dir, 180)
    trainer = json.loads((run_dir / "run.json").read_text())["attempts"][-1]["pid"]
    os.kill(trainer, signal.SIGSTOP)
    _until((run_dir / "incidents" / "001" / "incident.json").exists, "an incident")
    time.sleep(3)  # it stands still for a while, so that it can be seen
    os.kill(trainer, signal.SIGCONT)
    _until_step(run_dir, 460)
    top(run_dir)  # while it moves
    os.kill(trainer, signal.SIGKILL)
    first.wait(60)
    _start(run_dir).wait(900)


def _start(run_dir: Path, *command: str) -> subprocess.Popen[bytes]:
    words = [*HARNESS, "run", "--run-dir", str(run_dir), "--metrics-port", "off"]
    return subprocess.Popen(
        [*words, *(["--", *command] if command else [])],
        cwd=REPOSITORY,
        env=clean_env(),
        stdin=subprocess.DEVNULL,
    )


def _until_step(run_dir: Path, step: int) -> None:
    def reached() -> bool:
        with contextlib.suppress(OSError, IndexError, ValueError, KeyError):
            line = (run_dir / "metrics.jsonl").read_text().splitlines()[-1]
            return bool(json.loads(line)["step"] >= step)
        return False

    _until(reached, f"step {step}")


def _until(condition, what: str, seconds: float = 900.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


def report(run_dir: Path) -> None:
    """The top of `harness report`, light and dark."""
    page = Path(tempfile.mkdtemp()) / "report.html"
    subprocess.run(
        [*HARNESS, "report", str(run_dir), "--out", str(page)], check=True, timeout=120, env=clean_env()
    )
    with chromium.Browser() as browser:
        for scheme in ("light", "dark"):
            shown = browser.open(page, width=1180, height=1240, dark=scheme == "dark")
            shown.wait("document.documentElement.dataset.ready === '1'")
            shown.screenshot(HERE / f"report-{scheme}.png")


def top(run_dir: Path) -> None:
    """`harness top` as it stands in a terminal."""
    columns, rows = 104, 28
    shown = _in_a_terminal([*HARNESS, "top", run_dir.name], columns, rows, run_dir.parent)
    console = Console(
        record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text.from_ansi(shown), soft_wrap=True)
    body = console.export_html(theme=_COLOURS, inline_styles=True, code_format=_TERMINAL)
    page = Path(tempfile.mkdtemp()) / "top.html"
    page.write_text(body)
    with chromium.Browser() as browser:
        browser.open(page, width=900, height=540, dark=True).screenshot(HERE / "top.png")


_COLOURS = TerminalTheme(
    (22, 24, 29),
    (215, 218, 224),
    [
        *((22, 24, 29), (224, 108, 117), (126, 190, 118), (229, 192, 123)),
        *((97, 175, 239), (198, 120, 221), (86, 182, 194), (215, 218, 224)),
    ],
)
_TERMINAL = """<!doctype html><meta charset="utf-8"><title>harness top</title>
<style>body {{ margin: 0; padding: 14px 18px; background: #16181d; color: #d7dae0 }}
pre {{ font: 13px/1.38 "DejaVu Sans Mono", monospace; margin: 0 }}</style>
<pre><code style="font-family: inherit">{code}</code></pre>"""


def _in_a_terminal(command: Sequence[str], columns: int, rows: int, folder: Path) -> str:
    """What a terminal shows of a command after a while, colours included."""
    socket = str(Path(tempfile.mkdtemp()) / "tmux")

    def tmux(*arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", socket, *arguments],
            env=clean_env(TERM="xterm-256color", LC_ALL="C.UTF-8"),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    tmux(
        "-f",
        "/dev/null",
        "new-session",
        "-d",
        "-x",
        str(columns),
        "-y",
        str(rows),
        "-c",
        str(folder),
        shlex.join(command),
    )
    try:
        _until(lambda: "step" in tmux("capture-pane", "-p"), "a first view", 60)
        time.sleep(2)
        return tmux("capture-pane", "-p", "-e")
    finally:
        tmux("kill-server")


PICTURES = (report,)


def main() -> None:
    """Make them all."""
    if len(sys.argv) > 1:
        run_dir = Path(sys.argv[1]).absolute()
        top(run_dir)
    else:
        run_dir = Path(tempfile.mkdtemp()) / "quickstart"
        the_run(run_dir)
    for picture in PICTURES:
        picture(run_dir)
    print(f"made from {run_dir}")


if __name__ == "__main__":
    main()
