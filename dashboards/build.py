"""Builds training.json, the Grafana dashboard *Training*, next to this file; `--check` only compares.

    python dashboards/build.py

What comes out is committed, so that Grafana needs nothing of this; a test builds it again and compares.
Covers the dashboard around the panels. Not here: the panels (`panels`), rules and alerts (`prometheus/`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from panels import ROWS, of_run
from parts import DATASOURCE, d, dashboard, event, variable

TARGET = Path(__file__).with_name("training.json")
UP = 'trainer_up{job=~"$job",instance=~"$instance"}'


def build() -> str:
    """The text of training.json."""
    made = (
        dashboard.Dashboard("Training")
        .uid("training")
        .description("Training runs under the harness: how they are, how fast, and what is in their way.")
        .tags(["training"])
        .readonly()
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("Alerts")
            .type(d.DashboardLinkType.LINK)
            .icon("bolt")
            .tooltip("What fires now, in Prometheus")
            .url("${prometheus}/alerts")
            .target_blank(True)
        )
    )
    prometheus = (
        dashboard.TextBoxVariable("prometheus")
        .label("Prometheus")
        .description("Where alerts and runbooks are, for a browser")
        .default_value("http://127.0.0.1:9090")
        .hide(d.VariableHide.HIDE_VARIABLE)
    )
    for each in (
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        variable("run_id", "Run", UP, newest=True),
        # What is known of a GPU but not of its rank has no rank.
        variable("rank", "Rank", UP.replace("}", ',run_id=~"$run_id"}'), everything=".*"),
        variable("job", "Job", "trainer_up", everything=".+"),
        variable("instance", "Instance", 'trainer_up{job=~"$job"}', everything=".+"),
        prometheus,
    ):
        made = made.with_variable(each)
    started = f"{of_run('trainer_start_timestamp_seconds')} and {of_run('trainer_attempt')} > 1"
    for name, colour, series in (
        ("Stall", "red", of_run("trainer_last_incident_timestamp_seconds")),
        ("Restart", "orange", started),
        ("Checkpoint", "purple", of_run("trainer_last_checkpoint_timestamp_seconds")),
    ):
        made = made.annotation(event(name, f"max by (run_id) ({series})", colour, text="{{run_id}}"))
    for index, (title, panels) in enumerate(ROWS):
        if title:
            made = made.with_row(dashboard.Row(title).id(index * 10).datasource(DATASOURCE))
        for panel in panels():
            made = made.with_panel(panel)
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write it, or with --check say whether what is written is what would be."""
    text = build()
    if arguments == ["--check"]:
        if TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"{TARGET.name} is not what build.py builds: run python dashboards/build.py", file=sys.stderr)
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
