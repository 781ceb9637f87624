"""A module's loop that stands on one line with what it does: each sample shows the same line."""

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"]}
RATE = "0.1"

weight = 1.0
print("READY", flush=True)
for epoch in range(10_000):
    for _ in range(10_000_000): weight -= 1e-9 * float(RATE)  # fmt: skip  # noqa: E701
