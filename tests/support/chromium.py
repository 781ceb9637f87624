"""Chromium without a window, driven over its DevTools pipe: what a page looks like, does, and complains of.

    with chromium.Browser() as browser:
        page = browser.open(path, width=375, dark=True)
        page.evaluate("document.title"), page.console, page.screenshot(png)

The standard library alone: messages are JSON with a NUL behind, on descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

_DEADLINE_SECONDS = 60.0
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--mute-audio"),
    *("--remote-debugging-pipe", "--force-color-profile=srgb", "about:blank"),
)


def program() -> str | None:
    """Where it is; None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One process with a profile of its own, gone with the `with`."""

    def __enter__(self) -> Self:
        found = program()
        assert found is not None, "chromium is not installed"
        self._stack = contextlib.ExitStack()
        profile = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "-", found),
                *(f"--user-data-dir={profile}", *_OPTIONS),
            ],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._stack.close()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events that come meanwhile are kept."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _DEADLINE_SECONDS
        while True:
            for answer in self._received(end - time.monotonic()):
                if answer.get("id") == number:
                    assert "error" not in answer, (method, answer["error"])
                    found: dict[str, Any] = answer["result"]
                    return found

    def _received(self, seconds: float) -> list[dict[str, Any]]:
        ready, _, _ = select.select([self._in], [], [], max(0.0, seconds))
        assert ready, f"Chromium did not answer within {_DEADLINE_SECONDS} s"
        data = os.read(self._in, 1 << 20)
        assert data, "Chromium has ended"
        *whole, self._rest = (self._rest + data).split(b"\0")
        messages = [json.loads(each) for each in whole]
        self.events += [each for each in messages if "method" in each]
        return messages

    def open(self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """A page in a window of its own, when it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        opened = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            opened.call(f"{domain}.enable")
        opened.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        opened.call("Emulation.setEmulatedMedia", features=[scheme])
        opened.call("Page.navigate", url=page.resolve().as_uri())
        opened.wait("document.readyState === 'complete'")
        return opened


class Page:
    """An open page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; what it throws is an error here."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + _DEADLINE_SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"not within {_DEADLINE_SECONDS} s: {expression}"
            time.sleep(0.05)

    def _events(self, *methods: str) -> list[dict[str, Any]]:
        self.evaluate("0")  # what came before the answer has been received then
        mine = [each for each in self._browser.events if each.get("sessionId") == self._session]
        return [each["params"] for each in mine if each["method"] in methods]

    @property
    def console(self) -> list[str]:
        """Everything that it complained of: exceptions, console messages, violated policies."""
        said = [
            each["exceptionDetails"].get("exception", {}).get("description") or str(each["exceptionDetails"])
            for each in self._events("Runtime.exceptionThrown")
        ]
        said += [str(each["args"]) for each in self._events("Runtime.consoleAPICalled")]
        return said + [each["entry"]["text"] for each in self._events("Log.entryAdded")]

    @property
    def requests(self) -> list[str]:
        """Every address that it asked for."""
        return [each["request"]["url"] for each in self._events("Network.requestWillBeSent")]

    def screenshot(self, picture: Path, *, whole: bool = False) -> Path:
        """What one sees of it, or all of it."""
        more: dict[str, Any] = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            more = {"clip": clip, "captureBeyondViewport": True}
        found = self.call("Page.captureScreenshot", format="png", **more)
        picture.write_bytes(base64.b64decode(found["data"]))
        return picture
