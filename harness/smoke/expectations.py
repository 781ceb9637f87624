"""The `expect` section of a stage, read into expectations: one function per key, listed in one table.

An exit status of 0 and no stall are expected of every stage that does not say otherwise; what is `none` is
not expected. Not here: what an expectation means (`expect`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.smoke import checks, expect, expect_steps
from harness.smoke.yamlfile import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.smoke.checks import Bound, Expectation
    from harness.smoke.yamlfile import Item

STALLED = 124
_LAST_STATUS = 255
_CAUSES_HINT = "Name causes of harness diagnose, for instance socket-read"


def parse(item: Item | None) -> tuple[Expectation, ...]:
    """What is expected; the exit status first, since it tells most."""
    keys = item.mapping(tuple(_READERS)) if item is not None else {}
    incident = "incident" in keys
    found: list[Expectation] = []
    if "exit" not in keys:
        # A stage that is to stall is ended for it.
        found.append(expect.ExitStatus(allowed=(STALLED,) if incident else (0,)))
    for name, reader in _READERS.items():
        if name in keys and not _is_none(keys[name]):
            found.extend(reader(keys[name]))
    if not incident:
        found.insert(1, expect.NoIncident())
    return tuple(found)


def _is_none(item: Item) -> bool:
    """Whether it is `none`: for a plan on whose machine there is nothing to expect."""
    return not item.is_mapping and not item.is_sequence and item.text() == "none"


def _exit(item: Item) -> list[Expectation]:
    return [expect.ExitStatus(allowed=tuple(each.count(0, _LAST_STATUS) for each in item.sequence()))]


def _loss(item: Item) -> list[Expectation]:
    keys = item.mapping(("finite", "falls_by", "ends_below"))
    found: list[Expectation] = []
    if "finite" not in keys or keys["finite"].boolean():
        found.append(expect_steps.LossFinite())
    if "falls_by" in keys:
        found.append(expect_steps.LossFalls(by=_bound(keys["falls_by"])))
    if "ends_below" in keys:
        found.append(expect_steps.LossEndsBelow(bound=_bound(keys["ends_below"])))
    return found


def _learning_rate(item: Item) -> list[Expectation]:
    if not item.is_mapping:
        if item.text() != "scheduled":
            raise item.wrong(f"{item.text()!r} is no schedule", "Write scheduled, or the schedule's keys")
        return [expect_steps.LearningRate()]
    keys = item.mapping(("kind", "peak", "warmup", "total", "floor", "from_zero"))
    kind = keys["kind"].text() if "kind" in keys else "cosine"
    if kind not in ("cosine", "linear", "constant"):
        raise keys["kind"].wrong(f"{kind!r} is no schedule", "Write cosine, linear or constant")
    schedule: dict[str, object] = {"kind": kind}
    schedule.update({"peak": keys["peak"].positive()} if "peak" in keys else {})
    schedule.update({"floor": keys["floor"].number()} if "floor" in keys else {})
    schedule.update({name: keys[name].count() for name in ("warmup", "total") if name in keys})
    schedule.update({"from_zero": keys["from_zero"].boolean()} if "from_zero" in keys else {})
    for name in ("peak", *(() if kind == "constant" else ("total",))):
        if name not in schedule:
            raise item.wrong(f"has no {name}", f"A {kind} schedule needs it")
    if "floor" in keys and not 0 <= keys["floor"].number() <= 1:
        raise keys["floor"].wrong(f"{keys['floor'].text()!r} is no ratio", "Give a share of the peak, 0 to 1")
    if {"warmup", "total"} <= keys.keys() and keys["warmup"].count() > keys["total"].count():
        raise keys["warmup"].wrong(
            f"{keys['warmup'].count()} is more than the total of {keys['total'].count()}", "Shorten it"
        )
    return [expect_steps.LearningRate(schedule=schedule)]


def _incident(item: Item) -> list[Expectation]:
    keys = item.mapping(("cause", "within"))
    if "cause" not in keys or "within" not in keys:
        raise item.wrong("needs a cause and a time", "Write {cause: socket-read, within: 30}")
    from harness.findings import CAUSES

    for each in keys["cause"].sequence():
        if each.text() not in CAUSES[1:]:  # the first is healthy, which is no stall
            raise each.wrong(f"{each.text()!r} is no cause", f"{nearest(each.text(), CAUSES)} {_CAUSES_HINT}")
    return [
        expect.IncidentFound(causes=keys["cause"].texts(), within_seconds=keys["within"].seconds()),
    ]


def _scraped(item: Item) -> list[Expectation]:
    if item.is_sequence:
        return [expect.Scraped(series=item.texts())]
    return [expect.Scraped()] if item.boolean() else []


def _measured(item: Item) -> list[Expectation]:
    found: list[Expectation] = []
    for name, value in item.mapping().items():
        if not value.is_mapping:
            found.append(expect.Measured(name=name, equals=value.scalar()))
            continue
        keys = value.mapping(("at_least", "at_most", "equals", "remedy"))
        if not keys.keys() & {"at_least", "at_most", "equals"}:
            raise value.wrong("says nothing of it", "Write at_least, at_most or equals")
        least = _bound(keys["at_least"]) if "at_least" in keys else None
        most = _bound(keys["at_most"]) if "at_most" in keys else None
        if isinstance(least, float) and isinstance(most, float) and least > most:
            raise value.wrong(f"nothing is at least {least:g} and at most {most:g}", "Mend one of them")
        found.append(
            expect.Measured(
                name=name,
                at_least=least,
                at_most=most,
                equals=keys["equals"].scalar() if "equals" in keys else None,
                remedy=keys["remedy"].text() if "remedy" in keys else "",
            )
        )
    return found


def _bound(item: Item) -> Bound:
    """A number, or `measured.NAME`."""
    text = item.text()
    if text.startswith(checks.MEASURED) and len(text) > len(checks.MEASURED):
        return text
    return item.number()


def _tokens_per_second(item: Item) -> list[Expectation]:
    bound = _bound(item)
    return [expect_steps.TokensPerSecond(at_least=bound if isinstance(bound, str) else item.positive())]


def _files(item: Item) -> list[Expectation]:
    found: list[Expectation] = []
    for pattern in item.texts():
        if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            raise item.wrong(
                f"{shown(pattern)} is not below its run directory",
                "Write such as checkpoints/*/model.pt; the command finds that folder in HARNESS_RUN_DIR",
            )
        found.append(expect.FileWritten(pattern=pattern))
    return found


_READERS: Mapping[str, Callable[[Item], list[Expectation]]] = {
    "exit": _exit,
    "incident": _incident,
    "measured": _measured,
    "stage": lambda item: [expect.StageReached(stage=text) for text in item.texts()],
    "step": lambda item: [expect.StepReached(step=item.count(1))],
    "ranks": lambda item: [expect.Ranks(count=item.count(1))],
    "loss": _loss,
    "learning_rate": _learning_rate,
    "tokens_per_second": _tokens_per_second,
    "gpu_memory": lambda item: [expect_steps.GpuMemory(at_most_bytes=item.size())],
    "memory": lambda item: [expect_steps.HostMemory(at_most_bytes=item.size())],
    "memory_growth": lambda item: [expect_steps.MemoryGrowth(at_most_bytes=item.size())],
    "scraped": _scraped,
    "files": _files,
    "log_lacks": lambda item: [expect.LogLacks(pattern=each.pattern()) for each in item.sequence()],
    "log_has": lambda item: [expect.LogHas(pattern=each.pattern()) for each in item.sequence()],
}
