"""Makes a run's families at each scrape, from its newest snapshot.

One family's failure stays its own, and is counted in `harness_collect_errors_total{collector="metrics"}`. Not
here: what the families are (`families`), reading the run (`harness.watch`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from harness.metrics.families import FAMILIES, of_command
from harness.snapshot import RunView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

# A command without records gets series of its own only after this long: a rank that vanished is an alert,
# and a command that is about to become rank 0 must not look like one.
_SILENT_SECONDS = 60.0
_ERRORS_TEXT = "Readings that failed."


class TrainerCollector(Collector):
    """Makes the families anew, from the newest snapshot, at each scrape."""

    def __init__(self, view: Callable[[], RunView | None]) -> None:
        self._view = view
        self._error_count = 0
        self._command_shown = False
        self._lock = threading.Lock()

    def describe(self) -> Iterator[Metric]:
        """Every family there may be, empty: so that `/metrics?name[]=` can choose among them."""
        nothing = RunView(run_id="", name="", taken_wall_seconds=0.0, attempt=0, started_wall_seconds=0.0)
        yield from (family for make in FAMILIES for family in make(nothing))
        yield CounterMetricFamily("harness_collect_errors", _ERRORS_TEXT)

    def collect(self) -> Iterator[Metric]:
        """All families that have a series."""
        view = self._view()
        if view is None:
            return
        families: dict[str, Metric] = {}
        makers = (*FAMILIES, of_command) if self._shows_command(view) else FAMILIES
        for make in makers:
            try:
                made = make(view)
            except Exception:  # noqa: BLE001 -- one family's failure stays its own
                self._count_error()
                continue
            for one in made:
                # A family is written once, whoever adds to it: two TYPE lines make a scrape invalid.
                if one.name in families:
                    families[one.name].samples.extend(one.samples)
                elif one.samples:
                    families[one.name] = one
        yield from families.values()
        # That none failed is known: a counter that begins at 1 hides its first one from increase().
        errors = {**view.collect_errors, "metrics": self._error_count}
        family = CounterMetricFamily("harness_collect_errors", _ERRORS_TEXT, labels=("run_id", "collector"))
        for name, count in sorted(errors.items()):
            family.add_metric((view.run_id, name), count)
        yield family

    def _count_error(self) -> None:
        with self._lock:
            self._error_count += 1

    def _shows_command(self, view: RunView) -> bool:
        """Whether the command is to have series of its own; once it has them, it keeps them."""
        command = view.command
        if command is None:
            return False
        waited = view.taken_wall_seconds - command.started_wall_seconds
        # Of one that ended there is nothing to wait for: it died before it could say anything.
        silent = not view.ranks and (waited > _SILENT_SECONDS or not command.alive)
        self._command_shown = self._command_shown or silent
        return self._command_shown
