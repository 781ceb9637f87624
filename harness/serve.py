"""/metrics and /healthz over HTTP, beside the trainer: one thread, bounded in time and memory per client.

An event loop holds the connections, so that one who sends half a request, never reads, or comes a thousand
times costs a little memory for a few seconds and keeps nobody else waiting. Bodies are made by one worker
thread at a time. Not here: what the metrics are (`metrics`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, make_wsgi_app

from harness.listening import ListenError, PortTakenError, is_loopback, listen, read_token, tls_context

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from prometheus_client.registry import Collector

    from harness.view import RunView

__all__ = ["ListenError", "PortTakenError", "Server", "read_token"]

_HUNG_UP = (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)

REQUEST_SECONDS = 5.0  # to send a whole request
REPLY_SECONDS = 30.0  # to take the whole reply: 1,024 ranks over a slow line
CLOSE_SECONDS = 5.0  # to take what the kernel still holds
PATIENCE_SECONDS = 1.0  # a reply that takes longer makes room where others wait
MAX_CONNECTIONS = 128
MAX_REPLIES = 16  # a thousand ranks' metrics are megabytes
MAX_REQUEST_BYTES = 16_384
_CHUNK_BYTES = 65_536
STALE_SECONDS = 30.0  # a snapshot older than this: whoever makes them stands still


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """What a request is answered with; `made_at` is when metrics began to be made (monotonic)."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    made_at: float | None = None


class Server:
    """Serves one run. `start` binds and begins to answer; `close` ends it.

    Args:
        collector: where the metrics come from.
        view: the newest snapshot, for /healthz.
        address: what to listen on; anything but loopback should have a token or a certificate.
        port: 0 takes any free one.
        token: clients have to send it (`Authorization: Bearer`).
        certificate: paths of a certificate chain and its key, in PEM: then TLS.
        clock: wall time.
    """

    def __init__(
        self,
        collector: Collector,
        view: Callable[[], RunView | None],
        *,
        address: str = "127.0.0.1",
        port: int,
        token: str | None = None,
        certificate: tuple[Path, Path] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        self._metrics = make_wsgi_app(registry)
        self._view = view
        self._clock = clock
        self._address = address
        self._port = port
        self._token = token.encode() if token else None
        self._tls = tls_context(certificate) if certificate is not None else None
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._makers = ThreadPoolExecutor(1, thread_name_prefix="metrics", initializer=_no_signals)
        # Connections by age: those that have not sent their request yet, and those that are being answered.
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._replying: dict[asyncio.Task[None], float] = {}
        self._making: dict[tuple[str, str, str], asyncio.Future[_Reply]] = {}
        self._scraped = threading.Event()
        self._counts_from = 0.0

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._port

    @property
    def url(self) -> str:
        """Where the metrics are."""
        scheme = "https" if self._tls is not None else "http"
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"{scheme}://{host}:{self._port}/metrics"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about where this listens."""
        if is_loopback(self._address) or self._token is not None or self._tls is not None:
            return ()
        who = f"metrics on {self._address}:{self._port} can be read by anybody who reaches this machine"
        return (f"{who}: give a token (--metrics-token-file) or listen on 127.0.0.1",)

    def start(self) -> None:
        """Listen, and answer from a thread of its own; PortTakenError, ListenError."""
        self._socket = listen(self._address, self._port)
        self._port = self._socket.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="serve", daemon=True)
        self._thread.start()
        ready.wait(10.0)

    def close(self) -> None:
        """Stop answering; open connections are cut."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            with contextlib.suppress(RuntimeError):  # it is closed already
                loop.call_soon_threadsafe(loop.stop)
            thread.join(2.0)
        self._makers.shutdown(wait=False, cancel_futures=True)
        if self._socket is not None:
            self._socket.close()

    def wait_scraped(self, linger_seconds: float) -> bool:
        """Wait until /metrics, made from now on, was read in full, or `linger_seconds` have passed."""
        self._scraped.clear()
        self._counts_from = time.monotonic()
        return self._scraped.wait(linger_seconds)

    # ---- the event loop

    def _serve(self, ready: threading.Event) -> None:
        _no_signals()
        loop = asyncio.new_event_loop()
        self._loop = loop
        # Clients who hang up are everyday life and no business of the terminal.
        loop.set_exception_handler(lambda _loop, _context: None)
        try:
            server = loop.run_until_complete(
                asyncio.start_server(
                    self._connected,
                    sock=self._socket,
                    ssl=self._tls,
                    ssl_handshake_timeout=REQUEST_SECONDS if self._tls is not None else None,
                    limit=MAX_REQUEST_BYTES,
                    backlog=1024,
                )
            )
            ready.set()
            loop.run_forever()
            # Connections just accepted get their task, and so their end; a closed server would lose them.
            loop.remove_reader(server.sockets[0].fileno())
            loop.run_until_complete(_turns(5))
            server.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    loop.run_until_complete(task)
            loop.run_until_complete(_turns(5))  # what was aborted is closed in the turns after
        finally:
            ready.set()
            loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._waiting) >= MAX_CONNECTIONS:  # the one that has dawdled longest makes room
            self._waiting.pop(oldest := next(iter(self._waiting)))
            oldest.cancel()
        self._waiting[task] = None
        try:
            try:
                request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_SECONDS)
            finally:
                self._waiting.pop(task, None)
            await self._slot(task)
            await asyncio.wait_for(self._answer(request, writer), REPLY_SECONDS)
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), CLOSE_SECONDS)
        except (*_HUNG_UP, asyncio.CancelledError):
            pass  # of a cancelled one nobody waits for the outcome
        finally:
            self._replying.pop(task, None)
            writer.transport.abort()

    async def _slot(self, task: asyncio.Task[None]) -> None:
        """Wait until there is room for one more reply; one that drags on gives way."""
        while len(self._replying) >= MAX_REPLIES:
            oldest, since = next(iter(self._replying.items()))
            if time.monotonic() - since > PATIENCE_SECONDS:
                self._replying.pop(oldest)
                oldest.cancel()
            else:
                await asyncio.sleep(0.02)
        self._replying[task] = time.monotonic()

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        reply = await self._reply(request)
        headers = (
            *reply.headers,
            ("Content-Length", str(len(reply.body))),
            ("Connection", "close"),
            ("Cache-Control", "no-store"),
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        writer.write(f"HTTP/1.1 {reply.status}\r\n{head}\r\n".encode("latin-1"))
        body = memoryview(b"" if request.startswith(b"HEAD ") else reply.body)
        for begin in range(0, len(body), _CHUNK_BYTES):
            # A copy of one chunk at a time: what the client does not take stays in the body, which is shared.
            writer.write(body[begin : begin + _CHUNK_BYTES])
            await writer.drain()
        if body and reply.made_at is not None and reply.made_at >= self._counts_from:
            self._scraped.set()

    # ---- what is answered

    async def _reply(self, request: bytes) -> _Reply:
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
        return hmac.compare_digest(shown.strip().encode("utf-8", "replace"), self._token) and (
            kind.lower() == "bearer"
        )

    async def _make(self, asked: tuple[str, str, str]) -> _Reply:
        """The metrics as asked for; who asks for the same while they are made shares them."""
        making = self._making.get(asked)
        if making is None:
            making = asyncio.ensure_future(
                asyncio.get_running_loop().run_in_executor(self._makers, self._expose, asked)
            )
            self._making[asked] = making
            making.add_done_callback(lambda _done: self._making.pop(asked, None))
        return await asyncio.shield(making)

    def _expose(self, asked: tuple[str, str, str]) -> _Reply:
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
            return _Reply(status=status, headers=tuple(headers), body=b"".join(parts), made_at=made_at)
        except Exception as error:  # noqa: BLE001 -- a fault of ours is an answer too
            why = f"the metrics could not be made: {type(error).__name__}: {error}"
            return _text("500 Internal Server Error", why)

    def _health(self) -> _Reply:
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
        watching = view is not None and now - view.taken_wall_seconds < STALE_SECONDS
        return _Reply(
            status="200 OK" if watching else "503 Service Unavailable",
            headers=(("Content-Type", "application/json"),),
            body=json.dumps(document).encode() + b"\n",
        )


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _text(status: str, text: str, *headers: tuple[str, str]) -> _Reply:
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return _Reply(status=status, headers=(kind, *headers), body=f"{text}\n".encode())


def _headers(text: str) -> dict[str, str]:
    fields = (line.partition(":") for line in text.split("\r\n") if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in fields}


def _no_signals() -> None:
    """Signals are the main thread's: one that this thread took would not wake it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
