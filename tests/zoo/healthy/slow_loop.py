"""One long Python loop that advances: selection over positions, called for each step."""

TRUTH = {"state": "slow", "cause": "slow-progress", "blame": ["select"], "facts": ["position"]}


def score(position):
    total = 0
    for value in range(3000):
        total += value ^ position
    return total


def select(length):
    chosen = []
    for position in range(length):
        chosen.append(score(position))
    return chosen


def main():
    print("READY", flush=True)
    for step in range(50000):
        select(1_000_000)


main()
