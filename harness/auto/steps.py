"""What makes a step: whose it is, and its loss, rates, norm and tokens, gathered until it is done.

The *leader* is the optimizer whose steps are the run's. Values may still be on their way from a device when a
step is done; rows then wait for them, in order, and at most `MAX_PENDING` of them. Not here: when things
happen and who is told (`recorder`).
"""

import weakref

from harness import wire
from harness.auto.reading import Late, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from harness.auto.reading import Scalar

MAX_PENDING = 8
_SEVERAL = (tuple, list)
PATIENCE_STEPS = 64  # of other optimizers, before one of them leads


class Row:
    """A step, and values of which some may still be on their way when it is done."""

    __slots__ = ("losses", "norms", "number", "phase_seconds", "rates", "scaled", "tokens")

    def __init__(self) -> None:
        self.number = 0
        self.losses: list[Scalar] = []
        self.norms: list[Scalar] = []
        self.rates: float | list[float] | None = None
        self.tokens: int | None = None
        self.scaled = False
        self.phase_seconds: list[float] = []

    def complete(self) -> bool:
        """Whether every value is here."""
        return all(map(_arrived, self.losses)) and all(map(_arrived, self.norms))

    def numbers(self) -> tuple[float | None, float | None]:
        """The loss, summed over what `backward` was called on, and the norm; None for what is not known.

        Where a part of the loss is missing it is not known; clipped more than once, there is no norm of all.
        """
        losses, norms = self.losses, self.norms
        loss = losses[0] if len(losses) == 1 else _sum(losses)
        norm = norms[0] if len(norms) == 1 else None
        return (
            loss.get() if isinstance(loss, Late) else loss,
            norm.get() if isinstance(norm, Late) else norm,
        )


class Steps:
    """Gathers the numbers of the step under way, and keeps the rows that wait for theirs."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.row = Row()  # of the step under way
        self.pending: list[Row] = []
        self.made = 0  # optimizers, ever
        self._number = 0
        self._leader: weakref.ref[Any] | None = None
        self._fresh: list[weakref.ref[Any]] = []  # made since the leader stepped: another training begins
        self._others = 0  # steps of others since
        self._seen: set[int] = set()  # which have stepped since the leader leads
        self._scaling: tuple[weakref.ref[Any], Any] | None = None

    def forget(self) -> None:
        """The next step's numbers begin here."""
        self.row = Row()

    # ── numbers ────────────────────────────────────────────────────────────────────────────────────────────

    def note_loss(self, tensors: "Any") -> None:
        """`backward` is called on this."""
        if isinstance(tensors, _SEVERAL) and len(tensors) == 1:
            tensors = tensors[0]
        scaling, self._scaling = self._scaling, None
        losses = self.row.losses
        if scaling is not None and scaling[0]() is tensors:
            losses.append(self.reader.scalar(scaling[1]))
        elif self.row.scaled:
            losses.append(None)  # scaled by something that we did not see
        else:
            losses.append(self.reader.scalar(tensors))

    def note_scaled(self, outputs: "Any", result: "Any") -> None:
        """A GradScaler made `result` of `outputs`."""
        self.row.scaled = True
        if hasattr(outputs, "detach"):
            self._scaling = (weakref.ref(result), outputs.detach())

    def note_norm(self, norm: "Any") -> None:
        """Gradients were clipped."""
        self.row.norms.append(self.reader.scalar(norm))

    def note_rates(self, optimizer: "Any") -> None:
        """The rates that a step is about to use."""
        groups = optimizer.param_groups
        if len(groups) == 1:
            rate = groups[0].get("lr")
            self.row.rates = rate if rate.__class__ is float else self.reader.rate(rate)
        else:
            self.row.rates = [self.reader.rate(group.get("lr")) for group in groups[: wire.MAX_RATES]]

    def note_tokens(self, tokens: int) -> None:
        """So many more are trained on."""
        self.row.tokens = (self.row.tokens or 0) + tokens

    def drop(self) -> None:
        """Gradients are thrown away, and what is known of them; of several optimizers, nobody knows which."""
        row = self.row
        if row.losses:
            row.losses = [None] if len(self._seen) > 1 else []
            row.norms = []

    def evaluated(self, times: int, optimizer: "Any") -> None:
        """A closure was evaluated more than once within a step.

        The first time was at the parameters that the step began with, which is what LBFGS returns; of other
        optimizers it is not known.
        """
        lbfgs = type(optimizer).__name__ == "LBFGS"
        losses = self.row.losses
        self.row.losses = losses[: len(losses) - times + 1] if lbfgs else [None]

    # ── whose step it is ───────────────────────────────────────────────────────────────────────────────────

    def optimizer_made(self, optimizer: "Any") -> None:
        """An optimizer was constructed."""
        self.made += 1
        self._fresh.append(weakref.ref(optimizer))

    def leading(self, optimizers: "list[Any]") -> "Any":
        """Of optimizers that stepped as one, the one whose step it is."""
        leader = self._leader() if self._leader is not None else None
        return leader if any(each is leader for each in optimizers) else optimizers[0]

    def leads(self, optimizer: "Any") -> bool:
        """Whether the step that it took is one of the run's."""
        leader = self._leader() if self._leader is not None else None
        if leader is not optimizer:
            self._seen.add(id(optimizer))
            self._others += 1
            fresh = any(each() is optimizer for each in self._fresh)
            if leader is not None and not fresh and self._others < PATIENCE_STEPS:
                return False
            self._leader = weakref.ref(optimizer)
            self._seen = {id(optimizer)}
        self._others = 0
        self._fresh.clear()
        return True

    # ── rows ───────────────────────────────────────────────────────────────────────────────────────────────

    def done(self, number: int | None, phase_seconds: list[float]) -> Row | None:
        """A step of the run was done; `number` is a framework's own. Its row, if nothing is to wait for."""
        row, self.row = self.row, Row()
        row.number = self._number = self._number + 1 if number is None else number
        row.phase_seconds = phase_seconds
        if not self.pending and not self.reader.on_device:
            return row
        self.pending.append(row)
        return None

    def take(self, *, wait: bool) -> Row | None:
        """The next row whose values are here; the oldest as it is where too many wait, or none may."""
        if not self.pending:
            return None
        too_many = len(self.pending) > MAX_PENDING
        return self.pending.pop(0) if too_many or not wait or self.pending[0].complete() else None


def _arrived(value: "Scalar") -> bool:
    return value.__class__ is not Late or value.get() is not None


def _sum(losses: "list[Scalar]") -> float | None:
    values = [each.get() if isinstance(each, Late) else each for each in losses]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def was_skipped(found_inf: "Any") -> bool:
    """Whether a fused optimizer, told so by a GradScaler, left the parameters as they were; on the host."""
    return found_inf.device.type == "cpu" and bool(found_inf.item())
