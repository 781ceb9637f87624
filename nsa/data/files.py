"""Local files of documents: what `data.paths` names, and what identifies them."""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import Path
from typing import Literal

from nsa.errors import ConfigError, DataSourceError

FORMATS: dict[str, Literal["parquet", "json"]] = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json"}
# Hashing whole large files would take minutes; their size and ends (a parquet file's footer) do.
_WHOLE_BYTES = 64 << 20
_END_BYTES = 1 << 20


def expand(patterns: tuple[str, ...]) -> list[Path]:
    """The files that `data.paths` names, each once, by name; ConfigError on a pattern without any."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        # Not Path.glob, which takes no absolute pattern.
        matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))  # noqa: PTH207, PTH111
        files = [Path(match) for match in matches if Path(match).is_file()]
        if not files:
            raise ConfigError(
                f"data.paths: {pattern!r} matches no file. Name .parquet or .jsonl files that exist"
            )
        for path in files:
            if path.suffix not in FORMATS:
                raise ConfigError(
                    f"data.paths: {str(path)!r} is neither .parquet nor .jsonl. Name such, or convert it"
                )
            found.setdefault(path)
    return sorted(found, key=lambda path: (path.name, str(path)))


def identity(paths: list[Path]) -> str:
    """Of names and content, not of places: a folder that was moved is still the same data."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path.name}\0{_content(path)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            if size <= _WHOLE_BYTES:
                digest.update(file.read())
            else:
                digest.update(file.read(_END_BYTES))
                file.seek(-_END_BYTES, os.SEEK_END)
                digest.update(file.read())
    except OSError as error:
        raise DataSourceError(
            f"data source files: cannot read {path}: {error.strerror}. Check the file and data.paths"
        ) from error
    return digest.hexdigest()
