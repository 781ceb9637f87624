"""Parts that the dashboard is made of: panels with what each of them must have, variables, annotations.

Not here: which panels there are, and their queries (`panels`).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

with warnings.catch_warnings():
    # The classic model is what file provisioning reads everywhere; the SDK would rather have its successor.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import (
        bargauge,
        common,
        dashboard,
        prometheus,
        stat,
        statetimeline,
        table,
        timeseries,
    )
    from grafana_foundation_sdk.models import common as c
    from grafana_foundation_sdk.models import dashboard as d
    from grafana_foundation_sdk.models import prometheus as p

Panel: TypeAlias = bargauge.Panel | stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel

DATASOURCE = c.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Prometheus serves the runbooks: --web.user-assets=docs/runbooks.
RUNBOOK = "${prometheus}/user/%s.md"
LEGEND = (
    common.VizLegendOptions()
    .show_legend(True)
    .display_mode(c.LegendDisplayMode.LIST)
    .placement(c.LegendPlacement.BOTTOM)
)


def query(
    expression: str, legend: str = "", *, ref: str = "A", instant: bool = False
) -> prometheus.Dataquery:
    """One query; `instant` for what has one value, the newest."""
    made = (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .expr(" ".join(expression.split()))
        .legend_format(legend)
        .ref_id(ref)
    )
    return made.instant() if instant else made.range()


def panel(
    made: Panel,
    identity: int,
    title: str,
    unit: str,
    width: int,
    height: int,
    text: str,
    *queries: prometheus.Dataquery,
    runbooks: Sequence[str] = (),
) -> Panel:
    """What every panel has; `identity` is its id for good: links point at it."""
    links = [
        dashboard.DashboardLink(f"Runbook: {name}")
        .type(d.DashboardLinkType.LINK)
        .url(RUNBOOK % name)
        .target_blank(True)
        for name in runbooks
    ]
    return (
        made.id(identity)
        .title(title)
        .description(" ".join(text.split()))
        .unit(unit)
        .datasource(DATASOURCE)
        .targets(list(queries))
        .span(width)
        .height(height)
        .links(list(links))
    )


def lines(*, stacked: bool = False, floor: float | None = None) -> timeseries.Panel:
    """Curves over time; a gap stays a gap."""
    made = (
        timeseries.Panel()
        .draw_style(c.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(40 if stacked else 0)
        .show_points(c.VisibilityMode.AUTO)
        .span_nulls(False)
        .legend(LEGEND)
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    )
    if stacked:
        made = made.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A"))
    return made if floor is None else made.min(floor)


def dashed(made: timeseries.Panel, *refs: str, colour: str | None = None) -> timeseries.Panel:
    """What a curve is to be compared with."""
    for ref in refs:
        properties = [d.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]})]
        if colour is not None:
            properties.append(
                d.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
            )
        made = made.override_by_query(ref, properties)
    return made


def bars(*, steps: Mapping[float | None, str]) -> bargauge.Panel:
    """One bar for each series, by its newest value."""
    return (
        bargauge.Panel()
        .display_mode(c.BarGaugeDisplayMode.BASIC)
        .orientation(c.VizOrientation.HORIZONTAL)
        .reduce_options(_last())
        .min(0)
        .thresholds(_thresholds(steps))
    )


def number(*, steps: Mapping[float | None, str] | None = None) -> stat.Panel:
    """A number to be read from across the room."""
    made = (
        stat.Panel()
        .graph_mode(c.BigValueGraphMode.NONE)
        .color_mode(c.BigValueColorMode.VALUE)
        .reduce_options(_last())
        .text_mode(c.BigValueTextMode.AUTO)
    )
    return made.thresholds(_thresholds(steps or {None: "text"}))


def mapped(values: Mapping[int, tuple[str, str]], *, nothing: str | None = None) -> list[d.ValueMapping]:
    """Numbers to words and colours; `nothing` for no value at all."""
    found: list[d.ValueMapping] = [
        d.ValueMap(
            options={
                str(value): d.ValueMappingResult(text=text, color=colour, index=index)
                for index, (value, (text, colour)) in enumerate(values.items())
            }
        )
    ]
    if nothing is not None:
        result = d.ValueMappingResult(text=nothing, color="red", index=len(values))
        found.append(
            d.SpecialValueMap(
                options=d.DashboardSpecialValueMapOptions(
                    match=d.SpecialValueMatch.NULL_AND_NAN, result=result
                )
            )
        )
    return found


def variable(
    name: str, label: str, metric: str, *, everything: str = "", newest: bool = False
) -> dashboard.QueryVariable:
    """Choose among a label's values; `newest` begins with the last in the alphabet, the others with all."""
    text = f"label_values({metric}, {name})"
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"query": text, "refId": name})
        .definition(text)
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
    )
    if newest:  # Grafana begins with the first one, or with all where there is an "All"
        return made.sort(d.VariableSort.ALPHABETICAL_DESC)
    every = d.VariableOption(text="All", value="$__all")
    return made.sort(d.VariableSort.NATURAL_ASC).include_all(True).all_value(everything).current(every)


def event(name: str, expression: str, colour: str, *, text: str) -> dashboard.AnnotationQuery:
    """A mark at the time that a series says, which is exact, and not when it was scraped."""
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(colour)
        .expr(" ".join(f"1000 * {expression}".split()))
        .step("10s")
        .title_format(name)
        .text_format(text)
        .tag_keys("run_id")
        .use_value_for_time(True)
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)


def _thresholds(steps: Mapping[float | None, str]) -> dashboard.ThresholdsConfig:
    made = [d.Threshold(value=value, color=colour) for value, colour in steps.items()]
    return dashboard.ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps(made)


__all__ = [
    "DATASOURCE",
    "LEGEND",
    "Panel",
    "bars",
    "c",
    "d",
    "dashboard",
    "dashed",
    "event",
    "lines",
    "mapped",
    "number",
    "p",
    "panel",
    "query",
    "statetimeline",
    "table",
    "variable",
]
