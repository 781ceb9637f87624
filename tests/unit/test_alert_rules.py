"""Alerts, their runbooks and their tests go together; Prometheus' own tools find nothing to complain about.

On Prometheus 2.42, the oldest that the rules have to run on.
"""

import json
import re
import subprocess
import sys

import pytest
import yaml

from tests.support import prometheus
from tests.support.env import REPOSITORY
from tests.support.programs import completed

pytestmark = pytest.mark.needs("once")

FOLDER = REPOSITORY / "dashboards"
RULES = {
    file.stem: yaml.safe_load(file.read_text()) for file in (FOLDER / "prometheus" / "rules").glob("*.yml")
}
ALERTS = {rule["alert"]: rule for group in RULES["alerts"]["groups"] for rule in group["rules"]}
TESTS = FOLDER / "prometheus" / "tests"
PAGES = {"TrainerStalled", "TrainerLossNonFinite", "TrainerDown", "TrainerVanished"}


def test_every_alert_has_a_runbook_and_a_test_and_there_are_no_others():
    assert set(ALERTS) == {page.stem for page in (REPOSITORY / "docs" / "runbooks").glob("*.md")}
    assert set(ALERTS) == {file.stem for file in TESTS.glob("*.yml")}


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_whom_to_call_and_what_to_read(name):
    rule = ALERTS[name]
    assert rule["labels"] == {"severity": "page" if name in PAGES else "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert "{{ $labels.run_id }}" in rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"].endswith(f"/user/{name}.md")
    page = (REPOSITORY / "docs" / "runbooks" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    for part in ("**What it means.**", "**Look at.**", "**Do.**"):
        assert part in page
    # Whoever is called at night finds the machine, the directory and the process from this page alone.
    where = re.search(r"^\*\*Where\.\*\*.*?\n\n", page, re.MULTILINE | re.DOTALL)
    if re.search(r"RUN_DIR|\bPID\b", page):
        assert where is not None
        assert where[0] in (REPOSITORY / "docs" / "runbooks" / "TrainerStalled.md").read_text()
        assert page.index("**Where.**") < page.index("**Look at.**")


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_is_shown_to_fire_and_not_to_fire(name):
    """Each case that fires says what it says; each near miss has the alert's own series, and stays silent."""
    groups = yaml.safe_load((TESTS / f"{name}.yml").read_text())["tests"]
    kinds = {"fires": 0, "near miss": 0}
    for group in groups:
        kind = group["name"].partition(": ")[0]
        kinds[kind] += 1
        outcomes = [case["exp_alerts"] for case in group["alert_rule_test"]]
        assert {case["alertname"] for case in group["alert_rule_test"]} == {name}
        assert any(outcomes) == (kind == "fires"), group["name"]
        used = {re.match(r"\w+", series["series"])[0] for series in group["input_series"]}
        asked = ALERTS[name]["expr"] + RULES["recording"]["groups"][0]["rules"][0]["expr"]
        assert any(metric in asked for metric in used)
    assert all(kinds.values()), kinds


@pytest.mark.needs("promtool")
def test_promtool_runs_the_tests():
    files = sorted(map(str, TESTS.glob("*.yml")))
    assert prometheus.promtool("test", "rules", *files).count("SUCCESS") == len(files)


@pytest.mark.needs("promtool")
def test_promtool_checks_configuration_and_rules(tmp_path):
    (tmp_path / "targets").mkdir()
    (tmp_path / "rules").symlink_to(FOLDER / "prometheus" / "rules")
    (tmp_path / "prometheus.yml").symlink_to(FOLDER / "prometheus" / "prometheus.yml")
    # As `harness run --announce` writes it.
    (tmp_path / "targets" / "run.json").write_text(
        json.dumps(
            [{"targets": ["127.0.0.1:14090"], "labels": {"run_id": "run-1", "__meta_harness_pid": "1"}}]
        )
    )
    said = prometheus.promtool(
        "check", "config", "--lint=all", "--lint-fatal", str(tmp_path / "prometheus.yml")
    )
    assert "WARNING" not in said
    assert said.count("SUCCESS") >= 3


@pytest.mark.needs("amtool")
def test_amtool_checks_the_routing():
    said = prometheus.amtool("check-config", str(FOLDER / "alertmanager.yml"))
    assert "SUCCESS" in said


@pytest.mark.needs("amtool")
@pytest.mark.parametrize("name", sorted(ALERTS))
def test_every_alert_is_routed_by_its_severity(name):
    severity = ALERTS[name]["labels"]["severity"]
    done = subprocess.run(
        [
            *(prometheus.program("amtool"), "config", "routes", "test"),
            *(f"--config.file={FOLDER / 'alertmanager.yml'}", f"severity={severity}", f"alertname={name}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == severity


def test_what_suppresses_what_is_said_of_alerts_that_exist():
    document = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    text = json.dumps(document["inhibit_rules"])
    named = {name for found in re.findall(r'alertname=~?\\"([\w|]+)\\"', text) for name in found.split("|")}
    assert named <= set(ALERTS)
    assert all(rule["equal"] == ["run_id"] for rule in document["inhibit_rules"])


def test_rules_can_be_shortened_and_nothing_else_changes():
    short = prometheus.shortened(RULES["alerts"], 1 / 30)
    (vanished,) = [
        rule for group in short["groups"] for rule in group["rules"] if rule["alert"] == "TrainerVanished"
    ]
    assert vanished["for"] == "6000ms"
    assert "[20000ms]" in vanished["expr"]
    assert vanished["annotations"] == ALERTS["TrainerVanished"]["annotations"]
    texts = [json.dumps(rules) for rules in (RULES["alerts"], short)]
    assert re.sub(r"\d+(ms|[smh])", "T", texts[0]) == re.sub(r"\d+(ms|[smh])", "T", texts[1])
    same = prometheus.shortened(RULES["alerts"], 1)
    assert same["groups"][0]["rules"][0]["for"] == "120000ms"


# ---- what starts them


COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
GUIDE = (REPOSITORY / "docs" / "how-to" / "dashboard.md").read_text()


def documented(name):
    """The words behind a program in the guide."""
    (line,) = re.findall(rf"^    {name} (.*)$", GUIDE, re.MULTILINE)
    return line.split()


def compose_says(file):
    """What the Compose Specification's own schema has against a file."""
    done = completed(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.needs("check_jsonschema")
def test_the_compose_file_is_what_the_specification_asks_for(tmp_path):
    status, said = compose_says(FOLDER / "compose.yaml")
    assert status == 0, said
    for wrong in ({"volume": []}, {"network_mode": 1}, {"command": {"--web": 1}}):  # it would say so
        prometheus_too = {**COMPOSE["services"]["prometheus"], **wrong}
        (tmp_path / "compose.yaml").write_text(
            json.dumps({**COMPOSE, "services": {"prometheus": prometheus_too}})
        )
        assert compose_says(tmp_path / "compose.yaml")[0] == 1, wrong


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_container_is_pinned_and_listens_to_this_machine_alone(name):
    service = COMPOSE["services"][name]
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["network_mode"] == "host"  # the harness is on 127.0.0.1
    addresses = [
        service.get("environment", {}).get("GF_SERVER_HTTP_ADDR"),
        *(word.partition("=")[2] for word in service.get("command", []) if "--web.listen-address" in word),
    ]
    assert next(address for address in addresses if address).startswith("127.0.0.1")
    for volume in service["volumes"]:
        source, _, _ = volume.partition(":")
        assert source in COMPOSE["volumes"] or (FOLDER / source).exists(), source


def test_what_a_container_is_told_to_read_is_mounted_there():
    """Paths of the options and of Grafana's provisioning, followed through the volumes to files of ours."""

    def on_disk(service, path):
        for volume in COMPOSE["services"][service]["volumes"]:
            source, target, *_ = volume.split(":")
            if source.startswith(".") and (path == target or path.startswith(f"{target}/")):
                return (FOLDER / source / path[len(target) :].lstrip("/")).resolve()
        raise AssertionError(f"{path} of {service} comes from nowhere")

    told = {
        service: dict(word.partition("=")[::2] for word in COMPOSE["services"][service].get("command", []))
        for service in COMPOSE["services"]
    }
    config = on_disk("prometheus", told["prometheus"]["--config.file"])
    assert config == FOLDER / "prometheus" / "prometheus.yml"
    assert on_disk("prometheus", told["prometheus"]["--web.user-assets"]) == REPOSITORY / "docs" / "runbooks"
    assert on_disk("alertmanager", told["alertmanager"]["--config.file"]) == FOLDER / "alertmanager.yml"
    scraping = yaml.safe_load(config.read_text())
    assert [config.parent / each for each in scraping["rule_files"]] == [FOLDER / "prometheus/rules/*.yml"]
    (discovery,) = scraping["scrape_configs"][0]["file_sd_configs"]
    (announced,) = re.findall(r"--announce (\S+)", (FOLDER / "compose.yaml").read_text())
    assert [config.parent / each for each in discovery["files"]] == [REPOSITORY / announced / "*.json"]
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert on_disk("grafana", home) == FOLDER / "training.json"
    for kind in ("datasources", "dashboards"):
        path = f"/etc/grafana/provisioning/{kind}/training.yml"
        assert on_disk("grafana", path) == FOLDER / "grafana" / "provisioning" / kind / "training.yml"
    # Alertmanager is where Prometheus looks for it, and Prometheus where Grafana does.
    (managers,) = scraping["alerting"]["alertmanagers"]
    (address,) = managers["static_configs"][0]["targets"]
    assert address == told["alertmanager"]["--web.listen-address"]
    (source,) = yaml.safe_load(
        (FOLDER / "grafana" / "provisioning" / "datasources" / "training.yml").read_text()
    )["datasources"]
    assert source["url"] == f"http://{told['prometheus']['--web.listen-address']}"
    assert source["url"] == told["prometheus"]["--web.external-url"]


@pytest.mark.needs("prometheus", "alertmanager")
@pytest.mark.parametrize(
    ("program", "service"), [("prometheus", "prometheus"), ("prometheus-alertmanager", "alertmanager")]
)
def test_options_exist_in_the_oldest_version_too(program, service):
    helped = subprocess.run(
        [prometheus.program(program), "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    known = set(re.findall(r"--[\w.-]+(?==| )", helped.stdout + helped.stderr))
    used = {
        word.partition("=")[0] for word in (*COMPOSE["services"][service]["command"], *documented(program))
    }
    assert used <= known
    assert {word.partition("=")[0] for word in documented(program)} >= {
        "--config.file",
        "--web.listen-address",
    }


def test_what_the_guide_names_exists():
    for path in re.findall(r"(?:dashboards|docs|configs)/[\w./-]*\w", GUIDE):
        if path != "dashboards/prometheus/targets/rented.json":
            assert (REPOSITORY / path).exists(), path
    for link in re.findall(r"\]\(([^)h][^)]*)\)", GUIDE):
        assert (REPOSITORY / "docs" / "how-to" / link).exists(), link


def test_grafana_is_told_of_what_is_there():
    folder = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "training.yml").read_text())["datasources"]
    scraping = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((folder / "dashboards" / "training.yml").read_text())["providers"]
    volumes = COMPOSE["services"]["grafana"]["volumes"]
    assert f"./training.json:{provider['options']['path']}/training.json:ro" in volumes


def test_the_guide_lists_every_alert_with_its_severity():
    listed = dict(re.findall(r"^\| \[(\w+)\]\(\S+\) \| (\w+) \|", GUIDE, re.MULTILINE))
    assert listed == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}
