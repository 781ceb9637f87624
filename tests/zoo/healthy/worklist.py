"""Works off a set, with one long call into C for each of its items: nothing counts."""

TRUTH = {"state": ["slow", "healthy"], "cause": ["slow-progress", "healthy"], "settle_seconds": 0.3}


class Solver:
    def __init__(self, count):
        self.open = set(range(count))
        self.closed = set()

    def run(self):
        while self.open:
            item = self.open.pop()
            self.closed.add(item)
            sum(range(item % 30_000))


print("READY", flush=True)
Solver(3_000_000).run()
