"""Where a step's time goes, by what comes after what: pure, but for the clock that is handed in.

Between two events lies one phase. What it was is often known only by the second: a backward pass says that
forward was before it, another batch instead says that it was not (an evaluation, or a batch fetched ahead).
Time spent in stages nested in a step (compile, checkpoint, eval) is theirs.
"""

from harness import wire

# Phases are their places in wire.PHASES here, for this is called many times a step; NONE is between two.
DATA, FORWARD, BACKWARD, OPTIMIZER, CHECKPOINT, EVAL, OTHER = map(
    wire.PHASES.index, ("data", "forward", "backward", "optimizer", "checkpoint", "eval", "other")
)
NONE = len(wire.PHASES)
_NOTHING = [0.0] * NONE
_HOSTS = tuple(each in (DATA, CHECKPOINT, EVAL) for each in range(NONE))


class StepClock:
    """Adds up the seconds of the phases since they were last taken."""

    __slots__ = ("_mark", "_nested", "_seconds")

    def __init__(self, now: float) -> None:
        self._mark = now
        self._nested = 0.0
        self._seconds = _NOTHING.copy()

    def account(self, phase: int, now: float) -> None:
        """What lies between the last event and now was `phase`."""
        spent = now - self._mark - self._nested
        self._mark, self._nested = now, 0.0
        if spent > 0.0:
            self._seconds[phase] += spent

    def nested(self, stage: str, seconds: float) -> None:
        """A stage inside the step took so long."""
        self._nested += seconds
        if stage == "checkpoint":
            self._seconds[CHECKPOINT] += seconds
        elif stage == "eval":
            self._seconds[EVAL] += seconds

    def restart(self, now: float) -> None:
        """Forget what was before."""
        self._mark, self._nested = now, 0.0
        self._seconds = _NOTHING.copy()

    def take(self, *, host: bool) -> list[float]:
        """The phases' seconds, and begin anew; of a device's work, only what the host itself waited for."""
        taken, self._seconds = self._seconds, _NOTHING.copy()
        if host:
            return taken
        return [seconds if of_host else 0.0 for seconds, of_host in zip(taken, _HOSTS, strict=True)]
