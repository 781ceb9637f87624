"""The command as another user, `nobody`, who has no rights over anybody's processes but their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.env import clean_env

if TYPE_CHECKING:
    from collections.abc import Iterator

UID = 65534

# The interpreter may lie where nobody may read: everything is imported before the user changes.
_PROGRAM = """
import os, sys
import _strptime, email.parser, encodings.idna, gettext, locale, shutil
import harness.bundle, harness.cli, harness.cli.diagnose, harness.collect.case, harness.render.as_json
import harness.render.html, harness.render.markdown, harness.render.terminal, harness.rules
import harness.cli.explain, harness.cli.report, harness.cli.run, harness.cli.top, harness.cli.watch
import harness.render.report, harness.render.run_lines, harness.render.top, harness.report.gather
import harness.supervise.session, harness.supervise.watching, harness.top.gather, harness.watch.foreign
import harness.render.stall, harness.supervise.observer, harness.watch.heartbeat, harness.watch.logtail
import harness.watch.ranks, rich.console
os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
sys.exit(harness.cli.main(sys.argv[1:]))
"""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that other users can reach (pytest's own are closed to them), with a py-spy in it."""
    path = Path(tempfile.mkdtemp(prefix="nobody-"))
    try:
        path.chmod(0o777)
        beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        shutil.copy(str(shutil.which("py-spy", path=beside)), path / "py-spy")
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """`harness ARGUMENTS` as nobody, from `place`."""
    env = clean_env(HOME=str(place))
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(uid=UID), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        env={**env, "PATH": f"{place}{os.pathsep}{env['PATH']}"},
    )


def harness(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    started = start(place, *arguments)
    try:
        out, err = started.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        started.kill()
        started.communicate()
        raise
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)
