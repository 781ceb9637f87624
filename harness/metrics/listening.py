"""Where a server listens: sockets, tokens and certificates, and who has the port if it is taken.

Everything that can go wrong here is the user's to mend, so every error names the value and the remedy. Not
here: answering (`answers`).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING

from harness.errors import HarnessError, UsageError
from harness.render.text import single_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOKEN_VARIABLE = "HARNESS_METRICS_TOKEN"  # noqa: S105 -- the variable's name
_ADDRESS_REMEDY = "Name an address of this machine, such as 127.0.0.1, and a port from 1024 on"


class PortTakenError(HarnessError):
    """Somebody else listens there."""

    def __init__(self, address: str, port: int, pid: int | None, command: str | None) -> None:
        who = f"by pid {pid} ({command})" if pid is not None else "by a process that this user may not see"
        super().__init__(
            f"{address}:{port} is taken {who}",
            remedy="End that one, or name another port: --metrics-port PORT (0: any free one)",
        )
        self.port = port
        self.pid = pid
        self.command = command


class ListenError(UsageError):
    """The address or port cannot be listened on."""


def read_token(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The token that scrapers have to show: a file's, or the environment's; None for none."""
    if file is None:
        return environment.get(TOKEN_VARIABLE, "").strip() or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise UsageError(f"{file}: the token cannot be read ({why})", remedy="Name a readable file") from None
    if not token:
        raise UsageError(f"{file}: the file is empty", remedy="Write a long random word into it")
    return token


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    if address == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    return False


def tls_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """TLS from a certificate chain and its key; UsageError."""
    chain, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(chain, key)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            f"{chain}, {key}: not a certificate and its key ({error.strerror or error})",
            remedy="Both have to be PEM files that belong together",
        ) from None
    return context


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens; PortTakenError, ListenError."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ListenError(f"{address}: no such address here ({error})", remedy=_ADDRESS_REMEDY) from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(1024)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(address, port, *_holder(port)) from None
        raise ListenError(
            f"{address}:{port} cannot be listened on: {error.strerror}", remedy=_ADDRESS_REMEDY
        ) from None
    return listening


def _holder(port: int) -> tuple[int | None, str | None]:
    """Who listens on a port: pid and command, as far as this user may see."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    continue
                command = single_line(" ".join(psutil.Process(connection.pid).cmdline()))
                return connection.pid, command if len(command) <= 80 else f"{command[:79]}…"
    return None, None
