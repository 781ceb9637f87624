"""Alerts, their runbooks and their tests go together; Prometheus' own tools find nothing to complain about.

On Prometheus 2.42, the oldest that the rules have to run on.
"""

import json
import re
import subprocess

import pytest

from tests.support import prometheus
from tests.support.env import REPOSITORY
from tests.support.needs import require

yaml = require("yaml")

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
