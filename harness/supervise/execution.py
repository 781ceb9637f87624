"""Why a command cannot be executed, in one line that its user can act on; exit statuses 126 and 127.

Not here: the execution itself (`keeper`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class CannotExecuteError(HarnessError):
    """The command is there and cannot be executed."""

    exit_status = 126


class NotFoundError(HarnessError):
    """There is no such command."""

    exit_status = 127


def check(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Refuse what plainly cannot run before a run directory is made for it; exec has the last word."""
    program = command[0]
    found = program if "/" in program else shutil.which(program, path=environment.get("PATH"))
    try:
        is_folder = found is not None and stat.S_ISDIR(os.stat(found).st_mode)  # noqa: PTH116 -- one look
    except OSError as error:
        raise explain(command, error.errno or errno.ENOENT, environment) from None
    if found is None:
        raise explain(command, errno.ENOENT, environment)
    if is_folder or not os.access(found, os.X_OK):
        raise explain(command, errno.EACCES, environment)


def explain(command: Sequence[str], number: int, environment: Mapping[str, str]) -> HarnessError:
    """Why the command could not be executed, as the user can act on it."""
    program = command[0]
    named_by_path = "/" in program
    found = program if named_by_path else shutil.which(program, mode=os.F_OK, path=environment.get("PATH"))
    if number in (errno.ENOENT, errno.ENOTDIR):
        if found and Path(found).is_file():
            interpreter = _interpreter(Path(found))
            return NotFoundError(
                f"{program}: its interpreter is missing ({interpreter})",
                remedy="Install it, or mend the first line",
            )
        where = "no such file" if named_by_path else "no such command on PATH"
        hint = (
            f"A file of this name is here: did you mean ./{program}"
            if not named_by_path and Path(program).exists()
            else ""
        )
        return NotFoundError(
            f"{program}: {where}", remedy=hint or "Check its spelling, or activate its environment"
        )
    if found and os.path.isdir(found):  # noqa: PTH112 -- pathlib's raises where a folder above is closed
        return CannotExecuteError(f"{program}: a directory", remedy="Name a program")
    if number == errno.ENOEXEC:
        return CannotExecuteError(
            f"{program}: neither a program of this machine nor a script with a #! line",
            remedy=f"Name its interpreter: harness run -- {_guess(program)} {program}",
        )
    if number == errno.EACCES and found and not os.path.exists(found):  # noqa: PTH110 -- as above
        return CannotExecuteError(
            f"{program}: a folder above it is closed to this user", remedy="Check the rights of its folders"
        )
    if number == errno.EACCES:
        return CannotExecuteError(
            f"{program}: not executable",
            remedy=f"chmod +x {program}, or name its interpreter: harness run -- {_guess(program)} {program}",
        )
    return CannotExecuteError(f"{program}: cannot be executed: {os.strerror(number)}")


def _guess(program: str) -> str:
    return "python" if program.endswith(".py") else "bash"


def _interpreter(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        first = file.readline(200)
        if first.startswith(b"#!"):
            return first[2:].strip().decode(errors="replace")
    return "the dynamic loader it names"
