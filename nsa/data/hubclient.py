"""Guards on every request to the hub: bounded waits, bytes counted as they come, no wrong answer taken.

huggingface_hub leaves some requests without a timeout, sleeps as long as a `Retry-After` says, and takes the
whole file for the range it asked for if a proxy ignores ranges. Its client factory is its own hook for this.
Not here: trying again (nsa.data.sources), and giving up on silence (nsa.data.readahead).
"""

from __future__ import annotations

import importlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

from nsa.data.readahead import ending
from nsa.errors import DataSourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nsa.data.meter import Meter

# Of one connect, one read, one write, unless the stall timeout asks for less.
_OPERATION_SECONDS = 10.0
_lock = threading.Lock()
_meters: weakref.WeakSet[Meter] = weakref.WeakSet()
_installed = False


def guard(meter: Meter) -> None:
    """Guard this process's requests to the hub, and count them in `meter` as long as it lives.

    Requests carry no mark of who asked, and pyarrow reads in threads of its own: every living meter counts
    every byte. A stream that is waited for could so be kept from its stall limit by another one's download,
    which ends with that download.
    """
    global _installed
    from huggingface_hub import set_client_factory

    with _lock:
        _meters.add(meter)
        if _installed:
            return
        model = _session()
        client_class = type(model)
        request_hooks = [*model.event_hooks["request"], _limit]

        def factory() -> Any:
            return client_class(
                event_hooks={"request": request_hooks, "response": [_watch]},
                follow_redirects=True,
                timeout=None,
            )

        set_client_factory(factory)
        _installed = True


def http() -> Any:
    """The module of the hub's client: httpx, or httpx2 since huggingface_hub 2."""
    return importlib.import_module(type(_session()).__module__.split(".")[0])


def _session() -> Any:
    return importlib.import_module("huggingface_hub.utils").get_session()


def _limit(request: Any) -> None:
    """No operation without a timeout, whatever the caller passed; none at all once the interpreter ends."""
    _refuse_at_exit()
    stall = min((meter.stall_timeout_seconds for meter in list(_meters)), default=_OPERATION_SECONDS)
    # A third: two attempts and what is between them fit into the stall timeout.
    limit = min(_OPERATION_SECONDS, max(0.2, stall / 3))
    given = request.extensions.get("timeout") or {}
    timeout = {name: min(given.get(name) or limit, limit) for name in ("connect", "read", "write", "pool")}
    request.extensions = {**request.extensions, "timeout": timeout}


def _watch(response: Any) -> None:
    """Count an answer's bytes; refuse another answer than was asked for, and too long a wait."""
    status, request = response.status_code, response.request
    answer = f"{status} {response.reason_phrase}".strip()
    for meter in list(_meters):
        who = f"data source {meter.source}: {request.url.host}"
        if status >= 400:
            meter.refused(answer)
            wait = response.headers.get("retry-after", "")
            if wait.isdigit() and int(wait) > meter.stall_timeout_seconds:
                raise DataSourceError(
                    f"{who} answers {answer} and asks to wait {wait} s, more than data.stall_timeout_seconds "
                    f"({meter.stall_timeout_seconds:g}). Try later, log in with `hf auth login` for a higher "
                    "limit, or raise it"
                )
        elif status == 200 and request.method == "GET" and "range" in request.headers:
            raise DataSourceError(
                f"{who} ignores ranges and sends whole files, as some proxies do: their bytes would be taken "
                "for others. Reach the hub without that proxy, or stage documents with `nsa data fetch`"
            )
        else:
            meter.answered()
    if status < 300:
        response.stream = _counting(response.stream)


def _refuse_at_exit() -> None:
    if ending.is_set():
        raise DataSourceError("the program ends: nothing is read any more")


def _counting(stream: Any) -> Any:
    class Counting(http().SyncByteStream):  # type: ignore[misc]
        """The same stream, counted as it comes in."""

        def __iter__(self) -> Iterator[bytes]:
            for chunk in stream:
                _refuse_at_exit()
                for meter in list(_meters):
                    meter.downloaded(len(chunk))
                yield chunk

        def close(self) -> None:
            stream.close()

    return Counting()
