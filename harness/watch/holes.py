"""Giving back the disk space of a file's head while somebody else appends to it.

Covers Linux's fallocate(2) with PUNCH_HOLE, through ctypes: Python has only posix_fallocate. The file's
size stays, so that offsets and the writer's O_APPEND go on as if nothing had happened.
"""

from __future__ import annotations

import ctypes
import os

_KEEP_SIZE = 0x01  # linux/falloc.h
_PUNCH_HOLE = 0x02


def punch(descriptor: int, start: int, end: int) -> None:
    """Free the blocks of [start, end) of an open, writable file; OSError where that cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if fallocate is None:
        raise OSError(95, os.strerror(95))
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, end - start) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
