"""What is answered over HTTP: /metrics, /healthz, and what is wrong with a request.

Bodies of metrics are made by one worker thread at a time, and shared by all who ask for the same meanwhile.
Not here: connections, and their limits (`server`).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.registry import Collector

    from harness.snapshot import RunView

_STALE_SECONDS = 30.0  # a snapshot older than this: whoever makes them stands still


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a request is answered with; `made_at` is when metrics began to be made (monotonic)."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    made_at: float | None = None


class Answers:
    """Answers requests about one run: from a collector, and, for /healthz, from the newest snapshot."""

    def __init__(
        self,
        collector: Collector,
        view: Callable[[], RunView | None],
        *,
        token: str | None,
        clock: Callable[[], float],
    ) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        self._metrics = make_wsgi_app(registry)
        self._view = view
        self._clock = clock
        self._token = token.encode() if token else None
        self._makers = ThreadPoolExecutor(1, thread_name_prefix="metrics", initializer=no_signals)
        self._making: dict[tuple[str, str, str], asyncio.Future[Reply]] = {}

    @property
    def guarded(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def close(self) -> None:
        """Make no more of them."""
        self._makers.shutdown(wait=False, cancel_futures=True)

    async def reply(self, request: bytes) -> Reply:
        """What this request gets, of its line and its headers."""
        line, _, rest = request.decode("latin-1").partition("\r\n")
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _text("400 Bad Request", "not HTTP/1.1")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _text("405 Method Not Allowed", "only GET and HEAD", ("Allow", "GET, HEAD"))
        fields = _headers(rest)
        if not self._allowed(fields.get("authorization", "")):
            words_needed = "a token is needed: Authorization: Bearer TOKEN"
            return _text("401 Unauthorized", words_needed, ("WWW-Authenticate", "Bearer"))
        path, _, query = target.partition("?")
        if path == "/metrics":
            return await self._make((query, fields.get("accept", ""), fields.get("accept-encoding", "")))
        return (
            self._health() if path == "/healthz" else _text("404 Not Found", "here are /metrics and /healthz")
        )

    def _allowed(self, authorization: str) -> bool:
        if self._token is None:
            return True
        kind, _, shown = authorization.partition(" ")
        return hmac.compare_digest(shown.strip(" \t").encode("latin-1"), self._token) and (
            kind.lower() == "bearer"
        )

    async def _make(self, asked: tuple[str, str, str]) -> Reply:
        """The metrics as asked for; who asks for the same while they are made shares them."""
        making = self._making.get(asked)
        if making is None:
            making = asyncio.ensure_future(
                asyncio.get_running_loop().run_in_executor(self._makers, self._expose, asked)
            )
            self._making[asked] = making
            making.add_done_callback(lambda _done: self._making.pop(asked, None))
        return await asyncio.shield(making)

    def _expose(self, asked: tuple[str, str, str]) -> Reply:
        made_at = time.monotonic()
        names = ("QUERY_STRING", "HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING")
        environment = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/metrics",
            **dict(zip(names, asked, strict=True)),
        }
        begun: list[Any] = []
        try:
            parts = self._metrics(environment, lambda status, headers: begun.extend((status, headers)))
            status, headers = begun
            return Reply(status=status, headers=tuple(headers), body=b"".join(parts), made_at=made_at)
        except Exception as error:  # noqa: BLE001 -- a fault of ours is an answer too
            why = f"the metrics could not be made: {type(error).__name__}: {error}"
            return _text("500 Internal Server Error", why)

    def _health(self) -> Reply:
        view = self._view()
        now = self._clock()
        if view is None:
            document: dict[str, Any] = {"status": "starting"}
        else:
            moved, lead = view.last_progress_wall_seconds, view.lead
            document = {
                "status": view.status,
                "run_id": view.run_id,
                "name": view.name,
                "attempt": view.attempt,
                "stage": lead.heartbeat.stage if lead is not None else None,
                "step": lead.heartbeat.step if lead is not None else None,
                "target_steps": view.steps,
                "stalled": view.stalled_since_wall_seconds is not None,
                "last_progress_age_seconds": None if moved is None else round(max(0.0, now - moved), 3),
                "stall_timeout_seconds": view.limit_seconds,
                "ranks": len(view.ranks),
                "ranks_up": sum(state.alive for state in view.ranks),
                "snapshot_age_seconds": round(max(0.0, now - view.taken_wall_seconds), 3),
            }
        # 200 says that this watches, not that the training is well: that is what the body is for. Restarting
        # the supervisor because the training stalled would take away the one who knows why.
        watching = view is not None and now - view.taken_wall_seconds < _STALE_SECONDS
        return Reply(
            status="200 OK" if watching else "503 Service Unavailable",
            headers=(("Content-Type", "application/json"),),
            body=json.dumps(document).encode() + b"\n",
        )


def _text(status: str, text: str, *headers: tuple[str, str]) -> Reply:
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return Reply(status=status, headers=(kind, *headers), body=f"{text}\n".encode())


def _headers(text: str) -> dict[str, str]:
    fields = (line.partition(":") for line in text.split("\r\n") if ":" in line)
    return {name.strip().lower(): value.strip(" \t") for name, _, value in fields}


def no_signals() -> None:
    """Signals are the main thread's: one that this thread took would not wake it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
