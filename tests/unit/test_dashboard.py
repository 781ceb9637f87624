"""The Grafana dashboard as it is committed, held against what Grafana and its linter ask for.

The rules are those that grafana/dashboard-linter documents (docs/index.md there), by their names, and those
of its code that the page leaves out. Queries are run against a live training in
tests/integration/test_prometheus.py.
"""

import itertools
import json
import re
import subprocess
import sys

import pytest
import yaml

from harness.wire import STAGES
from tests.support import prometheus
from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed

pytestmark = pytest.mark.needs("once")

FOLDER = REPOSITORY / "dashboards"
RUNBOOKS = {page.stem for page in (REPOSITORY / "docs" / "runbooks").glob("*.md")}
DASHBOARD = json.loads((FOLDER / "training.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
QUERIES = prometheus.panel_queries()
# Those of the linter's list that the panels use or may come to use.
UNITS = {"none", "string", "short", "percentunit", "sci", "bytes", "watt", "s"}
# What the linter is told to pass over, rule by rule: panels.
EXCLUDED = {
    rule: {entry["panel"] for entry in each["entries"]}
    for rule, each in yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"].items()
}
SELECTOR = re.compile(r"\b(?:trainer|harness)_\w+(\{[^}]*\})?")


def titled(panels):
    return pytest.mark.parametrize("panel", panels, ids=[panel["title"] for panel in panels])


# ---- how it is made


@pytest.mark.needs("grafana_foundation_sdk")
def test_building_it_again_gives_the_same_bytes():
    done = completed([sys.executable, "dashboards/build.py", "--check"], cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")


ROUND_TRIP = """
import json, sys, warnings
warnings.simplefilter("ignore")
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
register_default_plugins()
read = Dashboard.from_json(json.load(sys.stdin))
json.dump(read, sys.stdout, cls=JSONEncoder)
"""


@pytest.mark.needs("grafana_foundation_sdk")
def test_the_sdk_reads_it_back_and_loses_no_key():
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP],
        input=json.dumps(DASHBOARD),
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == DASHBOARD


def test_it_is_the_classic_model_that_file_provisioning_reads():
    assert DASHBOARD["schemaVersion"] == 42
    assert DASHBOARD["uid"] == "training"
    assert "__inputs" not in DASHBOARD
    assert "id" not in DASHBOARD


def test_ids_are_unique_and_small():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(0 < number < 100 for number in ids)


def test_panels_do_not_overlap_and_fill_their_rows():
    taken = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, (panel["title"], taken.get(cell))
            taken[cell] = panel["title"]
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height


# ---- what Grafana's linter asks for


def test_template_datasource_rule():
    sources = [each for each in VARIABLES.values() if each["type"] == "datasource"]
    assert [(each["name"], each["label"], each["query"]) for each in sources] == [
        ("datasource", "Data source", "prometheus")
    ]


@pytest.mark.parametrize("name", ["job", "instance"])
def test_template_job_rule_and_template_instance_rule(name):
    variable = VARIABLES[name]
    assert variable["datasource"]["uid"] == "${datasource}"
    assert variable["type"] == "query"
    assert variable["label"] == name.title()
    assert variable["multi"] is True
    assert variable["allValue"] == ".+"


@pytest.mark.parametrize("name", [name for name, each in VARIABLES.items() if each["type"] == "query"])
def test_template_label_promql_rule_and_template_on_time_change_reload_rule(name):
    variable = VARIABLES[name]
    assert re.fullmatch(rf"label_values\(trainer_up(\{{.*\}})?, {name}\)", variable["definition"])
    assert variable["query"]["query"] == variable["definition"]
    assert variable["refresh"] == 2


def test_template_uneditable_rule():
    assert DASHBOARD["editable"] is False


@titled(PANELS)
def test_panel_datasource_rule(panel):
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]


@titled(PANELS)
def test_panel_title_description_rule_and_panel_units_rule(panel):
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_target_rules(query):
    """target-job-rule, target-instance-rule, target-rate-interval-rule, target-counter-agg-rule."""
    selectors = list(SELECTOR.finditer(query.expression))
    assert selectors
    for selector in selectors:
        assert selector[1] is not None, selector[0]
        for label in ("job", "instance", "run_id"):
            assert f'{label}=~"${label}"' in selector[1]
    for function, window in re.findall(r"(\w+)\([^()]*\[([^\]]*)\]", query.expression):
        assert window == ("$__range" if function == "last_over_time" else "$__rate_interval")
    for at in re.finditer(r"\w+_(?:total|bucket|count|sum)\{", query.expression):
        function = query.expression[: at.start()].rpartition("(")[0].rpartition(" ")[2].rpartition("(")[2]
        excluded = query.panel in EXCLUDED["target-counter-agg-rule"]
        allowed = {"last_over_time"} if excluded else {"rate", "increase"}
        assert function in allowed, (function, at[0])


@pytest.mark.needs("promtool")
def test_target_promql_rule(tmp_path):
    """Every query is PromQL, as the oldest Prometheus that it has to run on reads it."""
    rules = [
        {"record": f"query:{number}", "expr": query.with_variables(run_id="run-1")}
        for number, query in enumerate(QUERIES)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in prometheus.promtool("check", "rules", str(file))


# ---- what we ask for


@titled([panel for panel in PANELS if panel["type"] in {"timeseries", "state-timeline"}])
def test_curves_have_a_legend(panel):
    assert panel["options"]["legend"]["showLegend"] is True


def test_nothing_is_made_up_to_fill_a_panel():
    for query in QUERIES:
        assert "vector(" not in query.expression
        assert "absent(" not in query.expression


def test_one_run_or_several_and_the_newest_first():
    assert VARIABLES["run_id"]["multi"] is True
    # Grafana begins with the first one, unless there is an "All"; ids begin with their date.
    assert VARIABLES["run_id"]["includeAll"] is False
    assert VARIABLES["run_id"]["sort"] == 2
    assert "current" not in VARIABLES["run_id"]
    for query in QUERIES:
        if query.legend:
            assert "{{run_id}}" in query.legend


def test_what_is_stacked_is_stacked_for_each_run_by_itself():
    """One run's phases on top of another's would be a step as long as both."""
    stacked = [
        panel
        for panel in PANELS
        if panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode", "none")
        != "none"
    ]
    assert [panel["title"] for panel in stacked] == ["Step time by phase"]
    for panel in PANELS:
        assert panel.get("repeat") == ("run_id" if panel in stacked else None), panel["title"]


def test_bars_turn_red_at_the_limit_and_not_at_a_number_of_ours():
    (bars,) = [panel for panel in PANELS if panel["title"] == "Progress by rank"]
    defaults = bars["fieldConfig"]["defaults"]
    assert (defaults["unit"], defaults["min"], defaults["max"]) == ("percentunit", 0, 1)
    assert [(step["value"], step["color"]) for step in defaults["thresholds"]["steps"]] == [
        (None, "green"),
        (0.5, "orange"),
        (1, "red"),
    ]
    (query,) = [query for query in QUERIES if query.panel == "Progress by rank"]
    assert "/ trainer_stall_timeout_seconds{" in query.expression


def test_rank_takes_in_what_has_none():
    assert VARIABLES["rank"]["allValue"] == ".*"  # a GPU whose rank is not known has no rank


def test_the_status_says_down_where_there_is_no_value():
    (status,) = [panel for panel in PANELS if panel["title"] == "Status"]
    defaults = status["fieldConfig"]["defaults"]
    assert defaults["noValue"] == "DOWN"
    assert {value: each["text"] for value, each in defaults["mappings"][0]["options"].items()} == {
        "0": "GONE",
        "1": "STALLED",
        "2": "TRAINING",
        "3": "FINISHED",
    }
    assert status["gridPos"]["w"] * status["gridPos"]["h"] >= 30


@titled([panel for panel in PANELS if panel["title"] in {"Stage", "Stages"}])
def test_stages_are_words_and_every_one_is_known(panel):
    options = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    words = [options[str(at)]["text"] for at in range(1, len(options) + 1)]
    assert words == [*STAGES, "other"]
    for at, word in enumerate(STAGES, 1):
        assert f"{at} * (trainer_stage{{" in panel["targets"][0]["expr"]
        assert f',stage="{word}"}}' in panel["targets"][0]["expr"]


def test_stalls_restarts_and_checkpoints_are_marked():
    marks = {mark["name"]: mark for mark in DASHBOARD["annotations"]["list"]}
    assert set(marks) == {"Stall", "Restart", "Checkpoint"}
    for mark in marks.values():
        assert mark["useValueForTime"] is True
        assert mark["expr"].startswith("1000 * ")  # milliseconds
        assert mark["datasource"]["uid"] == "${datasource}"


def test_panels_lead_to_runbooks_that_exist_and_every_runbook_is_led_to():
    linked = {
        re.fullmatch(r"\$\{prometheus\}/user/(\w+)\.md", link["url"])[1]
        for panel in PANELS
        for link in panel.get("links", [])
    }
    assert linked == RUNBOOKS


@pytest.mark.parametrize("page", sorted(RUNBOOKS))
def test_runbooks_name_panels_that_exist(page):
    text = (REPOSITORY / "docs" / "runbooks" / f"{page}.md").read_text()
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text.replace("\n", " ")))
    assert named <= {panel["title"] for panel in PANELS}


def test_the_guide_tells_of_every_row():
    guide = (REPOSITORY / "docs" / "how-to" / "dashboard.md").read_text()
    table = guide.partition("## What it shows")[2].partition("##")[0]
    assert re.findall(r"^\| ([A-Z][\w ]*?) \|", table, re.MULTILINE) == [row["title"] for row in ROWS]


def test_every_metric_that_harness_serves_is_used_somewhere():
    """On the dashboard, or in a rule."""
    from harness.metrics.collector import TrainerCollector

    served = {family.name for family in TrainerCollector(lambda: None).describe()}
    used = " ".join([*(query.expression for query in QUERIES), (FOLDER / "training.json").read_text()])
    assert not {name for name in served if name not in used}
