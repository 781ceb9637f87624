"""Serves a run's metrics over HTTP, beside the trainer: one thread, bounded in time and memory per client.

An event loop holds the connections, so that one who sends half a request, never reads, or comes a thousand
times costs a little memory for a few seconds and keeps nobody else waiting. Not here: what is answered
(`answers`), where it listens (`listening`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from harness.metrics.answers import Answers, no_signals
from harness.metrics.listening import is_loopback, listen, tls_context

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from prometheus_client.registry import Collector

    from harness.snapshot import RunView

_HUNG_UP = (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)

REQUEST_SECONDS = 5.0  # to send a whole request
REPLY_SECONDS = 30.0  # to take the whole reply: 1,024 ranks over a slow line
CLOSE_SECONDS = 5.0  # to take what the kernel still holds
PATIENCE_SECONDS = 1.0  # a reply that takes longer makes room where others wait
MAX_CONNECTIONS = 128
MAX_REPLIES = 16  # a thousand ranks' metrics are megabytes
MAX_REQUEST_BYTES = 16_384
_CHUNK_BYTES = 65_536


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
        self._answers = Answers(collector, view, token=token, clock=clock)
        self._address = address
        self._port = port
        self._tls = tls_context(certificate) if certificate is not None else None
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # Connections by age: those that have not sent their request yet, and those that are being answered.
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._replying: dict[asyncio.Task[None], float] = {}
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
        if is_loopback(self._address) or self._answers.guarded or self._tls is not None:
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
        self._answers.close()
        if self._socket is not None:
            self._socket.close()

    def wait_scraped(self, linger_seconds: float) -> bool:
        """Wait until /metrics, made from now on, was read in full, or `linger_seconds` have passed."""
        self._scraped.clear()
        self._counts_from = time.monotonic()
        return self._scraped.wait(linger_seconds)

    # ---- the event loop

    def _serve(self, ready: threading.Event) -> None:
        no_signals()
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
        reply = await self._answers.reply(request)
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


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
