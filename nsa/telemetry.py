"""What the session tells whoever watches it: one small Protocol, so that only nsa.train knows the harness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Telemetry(Protocol):
    """Who is told what the session does; never raises."""

    @property
    def enabled(self) -> bool:
        """Whether anyone listens."""
        ...

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Enter a stage; as a context manager, nest it."""
        ...

    def phase(self, name: str) -> None:
        """Switch the phase within a step."""
        ...

    def progress(self, detail: str | None = None) -> None:
        """Something moved inside a stage."""
        ...

    def step(self, number: int, **values: Any) -> None:
        """A step is done."""
        ...

    def event(self, kind: str, **fields: Any) -> None:
        """Something rare."""
        ...
