"""One call into C for each string of a list, in a loop of one line."""

import re

TRUTH = {
    "state": ["slow", "healthy"],
    "cause": ["slow-progress", "healthy", "slow-io"],
    "settle_seconds": 0.3,
}
WORDS = re.compile(r"(?:[a-z]+ ?)*$")


def scan(texts):
    found = 0
    for text in texts:
        found += bool(WORDS.match(text * 20_000))
    return found


print("READY", flush=True)
scan(f"document {'abcdefgh'[number % 8]}" for number in range(10_000_000))
