"""The order of a plan's stages: each name once, what is needed there and before, no circle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.smoke.yamlfile import PlanError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.smoke.plan import Stage
    from harness.smoke.yamlfile import Item


def check_names(stages: Sequence[Stage], items: Sequence[Item], budgets: Mapping[str, Item]) -> None:
    """PlanError for a name that two stages have, and for a budget of none."""
    seen: dict[str, Stage] = {}
    for stage in stages:
        if stage.name in seen:
            raise PlanError(
                f"{stage.file}:{stage.line}: {stage.name}: is given twice, the first time at line "
                f"{seen[stage.name].line}",
                remedy="Rename one",
            )
        seen[stage.name] = stage
    names = [item.mapping()["name"].text() for item in items]
    for name, budget in budgets.items():
        if name not in names:
            raise budget.wrong("no such stage", nearest(name, names))


def families(items: Sequence[Item], stages: Sequence[Stage]) -> dict[str, tuple[str, ...]]:
    """By the name in the file: the stages made of it."""
    found: dict[str, tuple[str, ...]] = {}
    for item in items:
        name = item.mapping()["name"].text()
        found[name] = tuple(
            stage.name for stage in stages if (stage.file, stage.line) == (item.file, item.line)
        )
    return found


def needs(stage: Stage, families: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The stages behind the names that a stage needs."""
    found: list[str] = []
    for name in stage.needs:
        if name not in families:
            raise PlanError(
                f"{stage.file}:{stage.line}: {stage.name}.needs: no stage {name!r}",
                remedy=nearest(name, families),
            )
        found.extend(families[name])
    return tuple(found)


def check_needs(stages: Sequence[Stage]) -> None:
    """No cycle; and what is needed stands before."""
    needs = {stage.name: stage.needs for stage in stages}
    order = {stage.name: number for number, stage in enumerate(stages)}
    for stage in stages:
        cycle = _cycle(stage.name, needs)
        if cycle:
            raise PlanError(
                f"{stage.file}:{stage.line}: {stage.name}.needs: a circle: {' → '.join(cycle)}",
                remedy="Remove one of these",
            )
    for stage in stages:
        later = next((name for name in stage.needs if order[name] > order[stage.name]), None)
        if later is not None:
            raise PlanError(
                f"{stage.file}:{stage.line}: {stage.name}.needs: {later} stands after it",
                remedy=f"Move {later} up: stages run in the order of the file",
            )


def _cycle(start: str, needs: Mapping[str, Sequence[str]]) -> list[str]:
    """A way from `start` back to it, if there is one."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for name in needs[way[-1]]:
            if name == start:
                return [*way, name]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []
