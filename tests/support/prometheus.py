"""A Prometheus and an Alertmanager of a test's own, with our configuration; and the dashboard's queries.

The committed files are what runs. Changed is what a test cannot wait for: intervals, and in the rules every
duration by one factor (`for`, windows, offsets), so that their proportions hold, but no `for` to less than
`LEAST_FOR_SECONDS`; and addresses, for tests share a machine.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed
from tests.support.tiny_run import free_port
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = REPOSITORY / "dashboards"
# A minute of the committed rules is two seconds here: 1 s, the interval of scrapes, is 30 s of theirs.
FACTOR = 1 / 30
# Prometheus takes note of targets that come or go every five seconds (twice: discovery, then scraping), and
# that cannot be changed: until then one that was withdrawn looks like one that is down.
LEAST_FOR_SECONDS = 6.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def program(name: str) -> str:
    """Where a program of Prometheus is; `needs` has seen to it that it is there."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def promtool(*arguments: str, text: str | None = None) -> str:
    """What promtool says (of `text`, if given), both streams; AssertionError where it is not content."""
    return _checked("promtool", *arguments, text=text)


def amtool(*arguments: str) -> str:
    """The same of amtool."""
    return _checked("amtool", *arguments)


def _checked(name: str, *arguments: str, text: str | None = None) -> str:
    done = completed([program(name), *arguments], input=text)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


# ── the dashboard ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelQuery:
    """One query of the dashboard."""

    panel: str
    kind: str
    ref: str
    expression: str
    legend: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.panel} {self.ref}"

    def with_variables(self, *, run_id: str, rate_interval: str = "1m", time_range: str = "1h") -> str:
        """As Grafana would send it, with one run (or several: `a|b`) and all of everything else chosen."""
        chosen = "|".join(map(re.escape, run_id.split("|")))
        text = self.expression.replace("$__rate_interval", rate_interval).replace("$__range", time_range)
        for name, value in (("job", ".+"), ("instance", ".+"), ("run_id", chosen), ("rank", ".*")):
            text = text.replace(f'"${name}"', json.dumps(value))
        assert "$" not in text, text
        return text


def panel_queries() -> list[PanelQuery]:
    """Every query of every panel, and of the annotations."""
    dashboard = json.loads((FOLDER / "training.json").read_text())
    found = [
        PanelQuery(
            panel=panel["title"],
            kind=panel["type"],
            ref=target["refId"],
            expression=target["expr"],
            legend=target["legendFormat"],
            instant=target.get("instant", False),
        )
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    marks = [
        PanelQuery(
            panel=f"mark {mark['name']}",
            kind="mark",
            ref="",
            expression=mark["expr"],
            legend="",
            instant=False,
        )
        for mark in dashboard["annotations"]["list"]
    ]
    return [*found, *marks]


# ── the rules ─────────────────────────────────────────────────────────────────────────────────────────────


def shortened(rules: dict[str, Any], factor: float = FACTOR) -> dict[str, Any]:
    """Rules with every duration times `factor`; nothing else is changed."""

    def scale(text: str, least_seconds: float = 0.0) -> str:
        found = re.fullmatch(r"(\d+)([smh])", text)
        assert found, text
        seconds = max(least_seconds, int(found[1]) * _UNITS[found[2]] * factor)
        return f"{round(seconds * 1000)}ms"

    def in_expression(expression: str) -> str:
        return re.sub(r"(\[|offset )(\d+[smh])", lambda found: f"{found[1]}{scale(found[2])}", expression)

    return {
        "groups": [
            {
                **group,
                "rules": [
                    {
                        **rule,
                        "expr": in_expression(rule["expr"]),
                        **({"for": scale(rule["for"], LEAST_FOR_SECONDS)} if "for" in rule else {}),
                    }
                    for rule in group["rules"]
                ],
            }
            for group in rules["groups"]
        ]
    }


# ── the servers ───────────────────────────────────────────────────────────────────────────────────────────


class Receiver:
    """Takes what Alertmanager sends: (receiver, alert name, run id, status), in the order of its coming."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, str, str]] = []
        received = self.received

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.extend(
                    (
                        body["receiver"],
                        alert["labels"]["alertname"],
                        alert["labels"].get("run_id", ""),
                        alert["status"],
                    )
                    for alert in body["alerts"]
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Stack:
    """Prometheus, Alertmanager and a receiver, for runs that are announced in `targets`."""

    def __init__(self, folder: Path, receiver: Receiver, port: int) -> None:
        self.targets = folder / "targets"
        self.receiver = receiver
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: object) -> Any:
        """What the API answers, under `data`."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str, **parameters: object) -> list[dict[str, Any]]:
        """The series of an instant query."""
        return self.ask("query", query=expression, **parameters)["result"]

    def query_range(
        self, expression: str, start: float, end: float, step: float = 1.0
    ) -> list[dict[str, Any]]:
        """The series of a range query."""
        return self.ask("query_range", query=expression, start=start, end=end, step=step)["result"]

    def firing(self, run_id: str) -> set[str]:
        """The alerts that fire for a run now."""
        return {
            alert["labels"]["alertname"]
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing" and alert["labels"].get("run_id") == run_id
        }

    def fired(self, run_id: str) -> set[str]:
        """Those that ever fired for it."""
        series = self.query(f'count_over_time(ALERTS{{alertstate="firing",run_id="{run_id}"}}[1h])')
        return {each["metric"]["alertname"] for each in series}

    def evaluated_at(self) -> float:
        """Unix time at which every group of rules has been evaluated last."""
        groups = self.ask("rules")["groups"]
        return min(_seconds(group["lastEvaluation"]) for group in groups)

    def notified(self, run_id: str, status: str = "firing") -> set[tuple[str, str]]:
        """(receiver, alert) of what arrived at the receiver for it."""
        return {
            (receiver, name)
            for receiver, name, run, state in list(self.receiver.received)
            if run == run_id and state == status
        }


def _seconds(text: str) -> float:
    """Unix time of RFC 3339 with nanoseconds, which Python 3.10 does not read."""
    return datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")).timestamp()


@contextlib.contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """All of them, answering; ended afterwards."""
    import yaml

    config = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    routing = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    (folder / "rules").mkdir()
    (folder / "targets").mkdir()
    for file in (FOLDER / "prometheus" / "rules").glob("*.yml"):
        (folder / "rules" / file.name).write_text(json.dumps(shortened(yaml.safe_load(file.read_text()))))
    receiver = Receiver()
    with contextlib.ExitStack() as ending:
        ending.callback(receiver.close)
        for each in (routing["route"], *routing["route"]["routes"]):
            each.update(group_wait="0s", group_interval="1s", repeat_interval="1h")
        for each in routing["receivers"]:
            each["webhook_configs"] = [{"url": receiver.url}]
        (folder / "alertmanager.yml").write_text(json.dumps(routing))
        alerts = serve(
            ending,
            folder,
            "prometheus-alertmanager",
            "--config.file=alertmanager.yml",
            "--storage.path=alerts",
            "--cluster.listen-address=",
        )
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alerts}"]
        (folder / "prometheus.yml").write_text(json.dumps(config))
        port = serve(
            ending,
            folder,
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
        )
        yield Stack(folder, receiver, port)


def serve(ending: contextlib.ExitStack, folder: Path, name: str, *arguments: str) -> int:
    """Start one that answers /-/ready, on a port that was free; the port."""
    for _ in range(5):
        port = free_port()
        log = (folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [program(name), *arguments, f"--web.listen-address=127.0.0.1:{port}"],
            cwd=folder,
            env=clean_env(GOMAXPROCS="1"),
            stdout=log,
            stderr=log,
        )
        log.close()

        def ready(process: subprocess.Popen[bytes] = process, port: int = port) -> bool:
            address = f"http://127.0.0.1:{port}/-/ready"
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                return process.poll() is None
            return process.poll() is not None

        def end(process: subprocess.Popen[bytes] = process) -> None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        ending.callback(end)
        wait_for(ready, 40, f"{name} to be ready", 0.1)
        if process.poll() is None:
            return port
    raise AssertionError((folder / f"{name}.log").read_text()[-2000:])
