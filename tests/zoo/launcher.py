"""Starts N ranks of a command, each in a session of its own, as torchrun does; ends the others when one dies.

launcher.py 2 -- python trainer.py …      with GROUP_RANK=1, as the second node: ranks 2 and 3
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


def main() -> int:
    count, _, *command = sys.argv[1:]
    first = int(os.environ.get("GROUP_RANK", "0")) * int(count)
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(first + rank), "WORLD_SIZE": count},
            start_new_session=True,
        )
        for rank in range(int(count))
    ]

    def forward(number: int, _: object) -> None:
        for process in ranks:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    while None in (statuses := [process.poll() for process in ranks]):
        failed = [(rank, status) for rank, status in enumerate(statuses) if status]
        if failed:
            for rank, status in failed:
                print(f"rank {rank} ended with {status}", flush=True)
            for process in ranks:
                process.terminate()
            for process in ranks:
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            break
        time.sleep(0.02)
    return 1 if any(process.returncode for process in ranks) else 0


if __name__ == "__main__":
    sys.exit(main())
