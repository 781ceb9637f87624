"""A smoke plan: stages in order, each with a command, a budget, what it needs and what is expected of it.

    name: cpu
    include: stages.yaml            # stages and values of another file; those here come first
    values: {device: cpu}           # what {device} stands for
    budgets: {train: 60}            # instead of a stage's own
    stages:
      - name: train
        summary: the loss falls
        command: "{python} train.py --device {device}"
        budget: 90
        stall: 60                   # seconds without progress; or by the trainer's stage: train=20,dataset=60
        needs: [data]
        expect: {step: 40, loss: {falls_by: 0.5}}

Not here: reading YAML (`yamlfile`), running (`runner`), and judging (`expect`).
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.limits import Overrides
from harness.render.text import single_line
from harness.smoke import expectations, order, yamlfile
from harness.smoke.expect import FileWritten, IncidentFound, LogHas, LogLacks
from harness.smoke.yamlfile import PlanError, Values, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.smoke.checks import Expectation
    from harness.smoke.yamlfile import Item

DEFAULT_BUDGET_SECONDS = 300.0
_PLAN_KEYS = ("name", "include", "values", "budgets", "stages")
_STAGE_KEYS = (
    "name",
    "summary",
    "command",
    "budget",
    "stall",
    "needs",
    "expect",
    "remedy",
    "environment",
    "for_each",
)
# A stage's name is a folder's name and a word on the command line.
_STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
# What follows it where there is one stage for each value.
_STAGE_VALUE = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What only a shell understands, and what has a key of its own.
_SHELLS = frozenset({"|", "||", "&&", "&", ";", ">", ">>", "<", "2>", "2>&1", "&>"})
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=.*", re.DOTALL)
_VALUE_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage, ready to run."""

    name: str
    family: str  # its name in the file: the same for all that `for_each` made of one
    summary: str
    command: tuple[str, ...]
    budget_seconds: float
    stall: str | None  # as `harness run --stall-timeout` takes it; None: limits learned from the run
    needs: tuple[str, ...]
    expectations: tuple[Expectation, ...]
    remedy: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    line: int = 0

    @property
    def globs(self) -> tuple[str, ...]:
        """The files it should write, below its run directory."""
        return tuple(each.pattern for each in self.expectations if isinstance(each, FileWritten))

    @property
    def patterns(self) -> tuple[str, ...]:
        """What is looked for in its log."""
        return tuple(each.pattern for each in self.expectations if isinstance(each, (LogLacks, LogHas)))

    def scaled(self, factor: float) -> Stage:
        """The same with every time limit multiplied."""
        stall = None if self.stall is None else _scaled_stall(self.stall, factor)
        return dataclasses.replace(
            self,
            budget_seconds=self.budget_seconds * factor,
            stall=stall,
            expectations=tuple(
                dataclasses.replace(each, within_seconds=each.within_seconds * factor)
                if isinstance(each, IncidentFound)
                else each
                for each in self.expectations
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All stages, in order."""

    path: str
    name: str
    stages: tuple[Stage, ...]

    def scaled(self, factor: float) -> Plan:
        """The same with every time limit multiplied."""
        return dataclasses.replace(self, stages=tuple(stage.scaled(factor) for stage in self.stages))

    def selected(self, only: Sequence[str], start: str | None) -> tuple[Stage, ...]:
        """The stages that `--only` and `--from` leave; UsageError for an unknown name.

        The name of a family stands for all its stages.
        """
        names = dict.fromkeys(name for stage in self.stages for name in (stage.name, stage.family))
        for name in (*only, *([start] if start is not None else ())):
            if name not in names:
                raise UsageError(f"{self.path}: no stage {name!r}", remedy=nearest(name, names))
        called = [{stage.name, stage.family} for stage in self.stages]
        first = next((n for n, each in enumerate(called) if start in each), 0)
        return tuple(
            stage
            for stage, each in zip(self.stages[first:], called[first:], strict=True)
            if not only or each.intersection(only)
        )


def load(path: Path, settings: Mapping[str, str | tuple[str, ...]] | None = None) -> Plan:
    """Read and check the plan at `path`; `settings` replace its values. PlanError in one line."""
    values: dict[str, str | tuple[str, ...]] = {"python": sys.executable}
    root = yamlfile.read(path, Values({})).mapping(_PLAN_KEYS)
    included: dict[str, Item] = {}
    if "include" in root:
        beside = path.parent / root["include"].text()
        if not beside.is_file():
            what = "no such file" if not beside.exists() else "is no file"
            raise root["include"].wrong(f"{beside}: {what}", "Name a YAML file, seen from the plan's folder")
        included = yamlfile.read(beside, Values({})).mapping(("values", "stages"))
        values.update(_values(included.get("values"), beside.parent))
    own = _values(root.get("values"), path.parent)
    values.update(own)
    _refuse_unknown_settings(str(path), settings or {}, values)
    values.update(settings or {})
    known = Values(values)
    known.used.update({"python", *(settings or {})})
    items = [
        item.with_values(known.replaced("here", str(Path(item.file).parent)))
        for source in (included, root)
        if "stages" in source
        for item in source["stages"].strict_sequence()
    ]
    if not items:
        raise PlanError(f"{path}: has no stages", remedy="Start from configs/smoke/cpu.yaml")
    budgets = root["budgets"].mapping() if "budgets" in root else {}
    stages = [stage for item in items for stage in _parse_stage(item, budgets)]
    order.check_names(stages, items, budgets)
    families = order.families(items, stages)
    stages = [dataclasses.replace(stage, needs=order.needs(stage, families)) for stage in stages]
    order.check_needs(stages)
    _refuse_unused(root.get("values"), known)
    name = single_line(root["name"].text() if "name" in root else path.stem)
    return Plan(path=str(path), name=name, stages=tuple(stages))


def _values(item: Item | None, folder: Path) -> dict[str, str | tuple[str, ...]]:
    """Each text or list of texts; `{here}`, as in stages, is the folder of the file."""
    found: dict[str, str | tuple[str, ...]] = {}
    if item is None:
        return found
    for name, value in item.mapping().items():
        if not _VALUE_NAME.fullmatch(name) or name == "here":
            raise value.wrong("cannot name a value", "Use small letters, digits and underscores")
        value = value.with_values(Values({"here": str(folder)}))
        found[name] = value.texts() if value.is_sequence else value.text()
    return found


def _refuse_unknown_settings(path: str, settings: Mapping[str, object], known: Iterable[str]) -> None:
    for name in settings:
        if name not in known:
            raise UsageError(f"--set {name}: {path} has no such value", remedy=nearest(name, sorted(known)))


def _refuse_unused(item: Item | None, values: Values) -> None:
    for name, value in (item.mapping() if item is not None else {}).items():
        if name not in values.used:
            raise value.wrong(
                "no stage uses it", f"Write {{{name}}} in a stage, see that it is spelt alike, or remove it"
            )


def _parse_stage(item: Item, budgets: Mapping[str, Item]) -> list[Stage]:
    """One stage, or one for each value that `for_each` names."""
    keys = item.mapping(_STAGE_KEYS)
    for name in ("name", "command"):
        if name not in keys:
            raise item.wrong(f"has no {name}", "Every stage needs a name and a command")
    name = keys["name"].text()
    if not _STAGE_NAME.fullmatch(name):
        raise keys["name"].wrong(
            f"{yamlfile.shown(name)} cannot name a stage", "Use up to 40 small letters, digits, - and _"
        )
    item = dataclasses.replace(item, key=name)
    keys = item.mapping(_STAGE_KEYS)
    if "for_each" not in keys:
        return [_parse_one(item, name, name, budgets.get(name))]
    variable = keys["for_each"].text()
    several = item.values.get(variable)
    if several is None:
        raise keys["for_each"].wrong(
            f"{variable!r} is no value of this plan", nearest(variable, item.values.names())
        )
    several = (several,) if isinstance(several, str) else several
    if not several:
        raise keys["for_each"].wrong(f"{variable} is an empty list", "Give it one value or more")
    for value in several:
        if len(several) > 1 and not _STAGE_VALUE.fullmatch(value):
            raise keys["for_each"].wrong(
                f"{yamlfile.shown(value)} cannot be part of a stage's name", "Use letters, digits, . - and _"
            )
    return [
        _parse_one(
            item.with_values(item.values.replaced(variable, value)),
            name if len(several) == 1 else f"{name}-{value}",
            name,
            budgets.get(name),
        )
        for value in several
    ]


def _parse_one(item: Item, name: str, family: str, budget: Item | None) -> Stage:
    keys = item.mapping(_STAGE_KEYS)
    budget = budget.with_values(item.values) if budget is not None else keys.get("budget")
    stall = keys["stall"].text() if "stall" in keys else None
    if stall is not None:
        try:
            Overrides.parse(stall)
        except UsageError as error:
            what = str(error).removeprefix(f"--stall-timeout {stall}: ").partition(". ")[0]
            raise keys["stall"].wrong(f"{yamlfile.shown(stall)}: {what}", error.remedy) from None
    environment = keys["environment"].mapping() if "environment" in keys else {}
    for variable, value in environment.items():
        if not _VARIABLE_NAME.fullmatch(variable):
            raise value.wrong("cannot name a variable", "Use letters, digits and underscores")
    return Stage(
        name=name,
        family=family,
        summary=single_line(keys["summary"].text()) if "summary" in keys else "",
        command=_command(keys["command"]),
        budget_seconds=budget.seconds() if budget is not None else DEFAULT_BUDGET_SECONDS,
        stall=stall,
        needs=keys["needs"].texts() if "needs" in keys else (),
        expectations=expectations.parse(keys.get("expect")),
        remedy=keys["remedy"].text() if "remedy" in keys else "",
        environment={key: value.text() for key, value in environment.items()},
        file=item.file,
        line=item.line,
    )


def _command(item: Item) -> tuple[str, ...]:
    """A list of words, or one line as a shell would split it; `{names}` are put in after the splitting."""
    if item.is_sequence:
        words = item.texts()
    else:
        try:
            raw = shlex.split(_raw(item))
        except ValueError as error:
            raise item.wrong(
                f"cannot be split into words: {error}", "Mend the quotes, or write a list"
            ) from None
        for word in _SHELLS.intersection(raw):
            raise item.wrong(f"{word!r} is for a shell, and none runs it", 'Write [bash, -c, "..."]')
        if raw and (assigned := _ASSIGNMENT.fullmatch(raw[0])):
            raise item.wrong(f"begins with {assigned[1]}=", "Variables belong under environment")
        words = tuple(word for part in raw for word in _word(item, part))
    if not words or not words[0]:
        raise item.wrong("is empty", "Write the command, for instance {python} train.py")
    return words


def _raw(item: Item) -> str:
    value = getattr(item.node, "value", None)
    if not isinstance(value, str):
        raise item.wrong("keys where a command belongs", "Write a line or a list of words")
    return value


def _word(item: Item, part: str) -> tuple[str, ...]:
    import yaml

    node = yaml.ScalarNode(tag="tag:yaml.org,2002:str", value=part)
    return dataclasses.replace(item, node=node).words()


def _scaled_stall(stall: str, factor: float) -> str:
    limits = Overrides.parse(stall)
    parts = [] if limits.every is None else [_limit(limits.every * factor)]
    return ",".join([*parts, *(f"{name}={_limit(value * factor)}" for name, value in limits.stages.items())])


def _limit(seconds: float) -> str:
    return "off" if seconds == float("inf") else f"{seconds:g}"
