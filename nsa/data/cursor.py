"""The data cursor: the exact place of the next token, as JSON; and what refuses a foreign one.

A cursor names the first token that has not been handed out by its document (epoch, shard, row) and its
offset in that document's tokens. The packer's remainder is so included without copying any text: it is
the rest of that document, tokenized again. The reasons are in docs/decisions/0003-data-cursor.md.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nsa.errors import NsaError

VERSION = 1


class CursorMismatchError(NsaError):
    """A saved place in the data does not belong to this data, tokenizer, or number of ranks."""

    exit_status = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A document: the pass over the source, the shard's place in that pass's order, the row in it."""

    epoch: int = 0
    shard: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What was handed out since the stream's first start, over all ranks."""

    sequences: int = 0
    tokens: int = 0
    documents: int = 0
    dropped_tokens: int = 0
    truncated_documents: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a stream stands, and which stream it is."""

    place: Place = field(default_factory=Place)
    offset: int = 0
    # Of the text at `place`, where it was read already, so that a changed source cannot pass for the old.
    digest: str | None = None
    totals: Totals = field(default_factory=Totals)
    # The hub's commit that was read: a resumed run reads the same one.
    revision: str | None = None
    world_size: int = 1
    # What the stream is made of, by name; `data`, `tokenizer`, `seed`, … See nsa.data.opening.
    identity: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a dict that JSON can hold."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, saved: Any) -> Cursor:
        """Read what `to_json` wrote; CursorMismatchError on anything else."""
        try:
            version = saved["version"]
            if version != VERSION:
                raise CursorMismatchError(
                    f"the saved data cursor has version {version!r}, this nsa reads {VERSION}. "
                    "Resume with the nsa that wrote it, or start anew with --resume never"
                )
            known = {f.name: saved[f.name] for f in fields(cls)}
            return cls(
                place=Place(**{name: _whole(value) for name, value in known["place"].items()}),
                offset=_whole(known["offset"]),
                digest=None if known["digest"] is None else str(known["digest"]),
                totals=Totals(**{name: _whole(value) for name, value in known["totals"].items()}),
                revision=None if known["revision"] is None else str(known["revision"]),
                world_size=_whole(known["world_size"]),
                identity=dict(known["identity"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CursorMismatchError(
                "the saved data cursor is damaged: it has not the fields of one. "
                "Resume from an older checkpoint, or start anew with --resume never"
            ) from None

    def check(self, *, world_size: int, identity: dict[str, Any]) -> None:
        """Refuse to continue another stream; the message names what differs."""
        if self.world_size != world_size:
            raise CursorMismatchError(
                f"the saved data cursor belongs to {self.world_size} rank(s), this run has {world_size}. "
                f"Resume with {self.world_size}, or start anew with --resume never"
            )
        differing = [
            f"{name} was {_short(self.identity.get(name))}, is {_short(identity.get(name))}"
            for name in sorted(self.identity.keys() | identity.keys())
            if self.identity.get(name) != identity.get(name)
        ]
        if differing:
            raise CursorMismatchError(
                f"the saved data cursor belongs to another stream: {'; '.join(differing)}. "
                "Restore what the run was started with, or start anew with --resume never"
            )


def fingerprint(identity: dict[str, Any]) -> str:
    """One short text for a whole identity."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def document_digest(text: str) -> str:
    """A short digest of one document's text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
