"""Whether the README's first line did what it says: finished, and learned to 1 nat below unigram entropy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Exit with a line that says what is wrong, if anything is."""
    status = json.loads(
        subprocess.check_output([Path(sys.executable).parent / "harness", "status", "--json"])
    )
    if (status["state"], status["exit_status"], status["incidents"]) != ("finished", 0, 0):
        sys.exit(f"the quickstart did not finish as it should: {status}")
    events = Path(status["run_dir"], "events", "rank-00000.jsonl").read_text().splitlines()
    last = [event for event in map(json.loads, events) if event["event"] == "eval"][-1]
    below = last["unigram_entropy_nats"] - last["loss"]
    print(f"held-out loss {last['loss']:.3f}, {below:.2f} nats below unigram entropy")
    if not below >= 1:
        sys.exit("the quickstart did not learn: at least 1 nat below was expected")
    rows = Path(status["run_dir"], "metrics.jsonl").read_text().splitlines()
    steps = [row["step"] for row in map(json.loads, rows)]
    if steps != list(range(1, status["target_steps"] + 1)):
        sys.exit(f"metrics.jsonl does not hold every step once: {len(steps)} rows")


main()
