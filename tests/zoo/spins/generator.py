"""Goes over a generator whose window never moves on: its stride is 0."""

TRUTH = {"state": "hung", "cause": "python-spin", "blame": ["windows", "count"], "settle_seconds": 0.3}


def windows(tokens, size, stride):
    start = 0
    while start + size <= len(tokens):
        yield list(map(str, tokens[start : start + size]))
        start += stride


def count(tokens):
    total = 0
    for window in windows(tokens, 128, 0):
        total += len(window)
    return total


print("READY", flush=True)
count(list(range(10_000)))
