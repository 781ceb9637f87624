"""docs/how-to/dashboard.md without Docker: what it says to type is typed, on the committed files as they are.

Changed are ports alone, for tests share a machine, and /etc, which becomes a folder. How rules and runs
behave is tests/integration/test_prometheus.py's.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import shlex
import shutil
import stat
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from harness.metrics.collector import TrainerCollector
from harness.metrics.server import Server
from tests.support import prometheus, views
from tests.support.env import REPOSITORY, clean_env
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("once")

GUIDE = (REPOSITORY / "docs" / "how-to" / "dashboard.md").read_text()
RULES = [
    rule
    for file in sorted((REPOSITORY / "dashboards" / "prometheus" / "rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]


def documented(beginning: str) -> list[str]:
    """The lines of the guide's code blocks that begin so."""
    return re.findall(rf"^    ({re.escape(beginning)}.*)$", GUIDE, re.MULTILINE)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that the guide works on, where they may be written."""
    shutil.copytree(
        REPOSITORY / "dashboards", tmp_path / "dashboards", ignore=shutil.ignore_patterns(".mypy_cache")
    )
    shutil.copytree(REPOSITORY / "docs" / "runbooks", tmp_path / "docs" / "runbooks")
    return tmp_path


@pytest.fixture
def ending() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def start(ending: contextlib.ExitStack, clone: Path, name: str) -> str:
    """Type the guide's line for a program, with a port that is free; its address."""
    (line,) = documented(f"{name} --")
    options = [word for word in shlex.split(line)[1:] if not word.startswith("--web.listen-address")]
    assert len(options) == len(shlex.split(line)) - 2, "it is told where to listen"
    return f"127.0.0.1:{prometheus.serve(ending, clone, name, *options)}"


def get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
        text = answer.read().decode()
        return json.loads(text) if "json" in answer.headers["Content-Type"] else text


@pytest.mark.needs("prometheus", "alertmanager")
def test_the_committed_files_work_with_packages_instead_of_docker(
    clone: Path, ending: contextlib.ExitStack
) -> None:
    alerts = start(ending, clone, "prometheus-alertmanager")
    config = clone / "dashboards" / "prometheus" / "prometheus.yml"
    config.write_text(config.read_text().replace("127.0.0.1:9093", alerts))
    address = start(ending, clone, "prometheus")

    loaded = [rule for group in get(address, "/api/v1/rules")["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == {each.get("alert") or each["record"] for each in RULES}
    for rule in loaded:
        if rule["type"] == "alerting":  # a notification's link leads to the page, served by Prometheus itself
            page = (clone / "docs" / "runbooks" / f"{rule['name']}.md").read_text()
            assert get(address, f"/user/{rule['name']}.md") == page

    def managers() -> list[str]:
        found = get(address, "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
        return [each["url"] for each in found]

    assert wait_for(managers, 40, "the Alertmanager to be found") == [f"http://{alerts}/api/v2/alerts"]

    # From a rented machine through a tunnel: announced by hand, with the guide's own line.
    view = views.view(views.state(), run_id="rented")
    server = Server(TrainerCollector(lambda: view), lambda: view, port=0)
    server.start()
    ending.callback(server.close)
    (line,) = documented("echo ")
    assert "127.0.0.1:14090" in line
    line = line.replace("127.0.0.1:14090", f"127.0.0.1:{server.port}")
    subprocess.run(["bash", "-c", line], cwd=clone, env=clean_env(), check=True, timeout=20)

    def step() -> list[dict[str, Any]]:
        return get(address, "/api/v1/query?query=trainer_step")["data"]["result"]

    (series,) = wait_for(step, 60, "the run to be scraped", 0.2)
    assert series["metric"]["run_id"] == "rented"
    assert series["value"][1] == "128"


def test_grafana_finds_its_files_where_the_guide_puts_them(clone: Path) -> None:
    lines = documented("sudo ")
    assert lines[-1] == "sudo systemctl restart grafana-server"
    etc = clone / "etc" / "grafana"
    (etc / "provisioning" / "dashboards").mkdir(parents=True)  # as the package has them
    (etc / "provisioning" / "datasources").mkdir()
    for line in lines[:-1]:
        typed = line.removeprefix("sudo ").replace("/etc/grafana", str(etc))
        subprocess.run(["bash", "-c", typed], cwd=clone, env=clean_env(), check=True, timeout=20)
    (provider,) = yaml.safe_load((etc / "provisioning/dashboards/training.yml").read_text())["providers"]
    dashboard = etc / provider["options"]["path"].removeprefix("/etc/grafana/") / "training.json"
    assert json.loads(dashboard.read_text())["uid"] == "training"
    assert stat.S_IMODE(dashboard.stat().st_mode) == 0o644
    (source,) = yaml.safe_load((etc / "provisioning/datasources/training.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"


@pytest.mark.needs("ssh")
def test_the_tunnels_are_what_ssh_understands_and_lead_to_what_listens() -> None:
    forwards = []
    for line in documented("ssh "):
        words = shlex.split(line)
        done = subprocess.run(
            [words[0], "-G", *words[1:]],
            env=clean_env(),
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert "hostname machine" in done.stdout.splitlines()
        forwards.append(
            sorted(re.findall(r"^localforward (\d+) \[127\.0\.0\.1\]:(\d+)$", done.stdout, re.MULTILINE))
        )
    everything, metrics_alone = forwards
    compose = (REPOSITORY / "dashboards" / "compose.yaml").read_text()
    for here, there in everything:
        assert here == there
        assert f"127.0.0.1:{there}" in compose
    assert metrics_alone == [("14090", "14090")]


# ---- what Alertmanager makes of several alerts at once


class Manager:
    """An Alertmanager with the committed routing, and alerts put into it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def fire(self, *alerts: dict[str, str]) -> None:
        # Of an hour ago and without an end: they stay.
        begun = dt.datetime.now(dt.timezone.utc) - dt.timedelta(hours=1)
        body = [{"labels": labels, "startsAt": begun.isoformat()} for labels in alerts]
        request = urllib.request.Request(
            f"http://{self.address}/api/v2/alerts",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20):
            pass

    def silent(self, run_id: str) -> set[str]:
        """The alerts of a run that nobody is told of, once Alertmanager has looked at all of them."""

        def looked_at() -> list[dict[str, Any]] | None:
            found = [
                each for each in get(self.address, "/api/v2/alerts") if each["labels"]["run_id"] == run_id
            ]
            return found if all(each["status"]["state"] != "unprocessed" for each in found) else None

        found = wait_for(looked_at, 60, "the alerts to be looked at", 0.1)
        return {each["labels"]["alertname"] for each in found if each["status"]["inhibitedBy"]}


@pytest.fixture
def manager(clone: Path, ending: contextlib.ExitStack) -> Manager:
    return Manager(start(ending, clone, "prometheus-alertmanager"))


def alert(name: str, run_id: str, **labels: str) -> dict[str, str]:
    (rule,) = [each for each in RULES if each.get("alert") == name]
    return {"alertname": name, "run_id": run_id, **rule["labels"], **labels}


@pytest.mark.needs("alertmanager")
def test_of_what_follows_from_something_worse_nobody_is_told(manager: Manager) -> None:
    manager.fire(
        *(alert(name, "down") for name in ("TrainerDown", "TrainerVanished", "TrainerStalled", "LossSpike")),
        *(alert(name, "vanished") for name in ("TrainerVanished", "TrainerStalled", "CheckpointOverdue")),
        *(alert(name, "nan") for name in ("TrainerLossNonFinite", "LossSpike", "TrainerStalled")),
        # Near misses: nothing worse, or of another run.
        *(alert(name, "tickets") for name in ("LossSpike", "ThroughputDropped", "GpuMemoryNearLimit")),
    )
    assert manager.silent("down") == {"TrainerVanished", "TrainerStalled", "LossSpike"}
    assert manager.silent("vanished") == {"TrainerStalled", "CheckpointOverdue"}
    assert manager.silent("nan") == {"LossSpike"}, "a stall and a NaN are two things"
    assert manager.silent("tickets") == set()


@pytest.mark.needs("alertmanager", "amtool")
def test_a_runbooks_silence_is_for_one_run_alone(manager: Manager) -> None:
    page = (REPOSITORY / "docs" / "runbooks" / "GpuMemoryNearLimit.md").read_text()
    (line,) = re.findall(r"^    (amtool .*)$", page, re.MULTILINE)
    words = shlex.split(line.replace("127.0.0.1:9093", manager.address).replace("RUN_ID", "known"))
    prometheus.amtool(*words[1:])
    (silence,) = get(manager.address, "/api/v2/silences")
    assert {(each["name"], each["value"], each["isRegex"]) for each in silence["matchers"]} == {
        ("alertname", "GpuMemoryNearLimit", False),
        ("run_id", "known", False),
    }


@pytest.mark.needs("alertmanager")
def test_one_message_for_a_run_and_a_severity_whatever_the_number_of_ranks(manager: Manager) -> None:
    manager.fire(
        *(alert("TrainerStalled", run_id, rank=str(rank)) for run_id in ("a", "b") for rank in range(16)),
        alert("TrainerLossNonFinite", "a", rank="0"),
        *(alert("ThroughputDropped", "c", rank=str(rank)) for rank in range(16)),
    )
    expected = [("page", "a", "page", 17), ("page", "b", "page", 16), ("ticket", "c", "ticket", 16)]

    def messages() -> list[tuple[str, str, str, int]]:
        return sorted(
            (
                each["receiver"]["name"],
                each["labels"]["run_id"],
                each["labels"]["severity"],
                len(each["alerts"]),
            )
            for each in get(manager.address, "/api/v2/alerts/groups")
        )

    with contextlib.suppress(AssertionError):
        wait_for(lambda: messages() == expected, 40, "the groups", 0.1)
    assert messages() == expected
