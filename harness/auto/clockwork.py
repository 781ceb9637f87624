"""Where a step's time goes, by what comes after what: pure, but for the clock that is handed in.

Between two events lies one phase. What it was is often known only by the second: a backward pass says that
forward was before it, another batch instead says that it was not (an evaluation, or a batch fetched ahead).
Time spent in stages nested in a step (compile, checkpoint, eval) is theirs.
"""

DATA, FORWARD, BACKWARD, OPTIMIZER, OTHER = "data", "forward", "backward", "optimizer", "other"


class StepClock:
    """Adds up the seconds of the phases since they were last taken."""

    __slots__ = ("_mark", "_nested", "_seconds")

    def __init__(self, now: float) -> None:
        self._mark = now
        self._nested = 0.0
        self._seconds: dict[str, float] = {}

    def account(self, phase: str, now: float) -> None:
        """What lies between the last event and now was `phase`."""
        spent = now - self._mark - self._nested
        self._mark, self._nested = now, 0.0
        if spent > 0.0:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + spent

    def nested(self, stage: str, seconds: float) -> None:
        """A stage inside the step took so long."""
        self._nested += seconds
        if stage in ("checkpoint", "eval"):
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def restart(self, now: float) -> None:
        """Forget what was before."""
        self._mark, self._nested = now, 0.0
        self._seconds = {}

    def take(self, *, host: bool) -> dict[str, float]:
        """The phases' seconds, and begin anew; of a device's work, only what the host itself waited for."""
        taken, self._seconds = self._seconds, {}
        if host:
            return taken
        return {name: seconds for name, seconds in taken.items() if name in ("data", "checkpoint", "eval")}
