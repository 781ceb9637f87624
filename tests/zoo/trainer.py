"""A tiny trainer that emits, resumes, and fails in a named way at a named step; needs no torch.

Its loss is a chain of hashes over all steps done so far, so that one step lost or done twice shows.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

from harness import emit


def backtrack() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")  # holds the GIL in C, for ever


def hold_gil() -> None:
    ctypes.PyDLL(None).sleep(3600)  # asleep, and the GIL with it


def async_exception() -> None:
    main = threading.main_thread().ident
    raiser = threading.Thread(
        target=lambda: ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(main), ctypes.py_object(RuntimeError)
        )
    )
    raiser.start()
    while True:
        time.sleep(0.01)  # it arrives between two bytecodes


def spin() -> None:
    while True:
        pass


def wait_for_data() -> None:
    time.sleep(3600)


def raise_error() -> None:
    raise RuntimeError("the data is bad")


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    while True:  # should it be handled, or stopped and continued: the step goes on
        return


FAULTS = {
    "exception": raise_error,
    "async-exception": async_exception,
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "gil": hold_gil,
    "backtrack": backtrack,
    "spin": spin,
    "sleep": wait_for_data,
    "sigint": lambda: send(signal.SIGINT),
    "sigterm": lambda: send(signal.SIGTERM),
    "sigkill": lambda: send(signal.SIGKILL),
    "sigstop": lambda: send(signal.SIGSTOP),
    "usage": lambda: sys.exit(2),
    "fails": lambda: sys.exit(1),
    "save-and-stop": lambda: sys.exit(75),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=0.02, help="per step")
    parser.add_argument(
        "--first-seconds", type=float, default=0.0, help="busy, before the first step is done"
    )
    parser.add_argument("--fault", choices=[*FAULTS, "none"], default="none")
    parser.add_argument("--at", type=int, default=30, help="the step that fails")
    parser.add_argument("--rank", type=int, default=0, help="the rank that fails")
    parser.add_argument("--attempts", type=int, default=1_000_000, help="the first so many attempts fail")
    parser.add_argument(
        "--beside", choices=["eval", "checkpoint"], help="a stage that takes a while, every --every"
    )
    parser.add_argument("--beside-seconds", type=float, default=0.0)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--save", action="store_true", help="state after each step, into the run directory")
    parser.add_argument("--losses", type=Path, help="a line per step: the step and its loss")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args()


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def train(args: argparse.Namespace) -> None:
    rank = int(os.environ.get("RANK", "0"))
    attempt = int(os.environ.get("HARNESS_ATTEMPT", "1"))
    emit.open(total_steps=args.steps)
    emit.stage("resume")
    saved = Path(os.environ.get("HARNESS_RUN_DIR", ".")) / f"state-{rank}.json"
    state = {"step": 0, "loss": "0"}
    if args.save and saved.exists():
        state = json.loads(saved.read_text())
    print(f"rank {rank} pid {os.getpid()} from step {state['step']}", flush=True)
    emit.stage("train")
    busy(args.first_seconds)
    for step in range(int(state["step"]) + 1, args.steps + 1):
        emit.phase("data")
        if args.fault != "none" and step == args.at and rank == args.rank and attempt <= args.attempts:
            FAULTS[args.fault]()
        emit.phase("forward")
        time.sleep(args.seconds)
        chain = hashlib.sha256(f"{state['loss']} {step}".encode()).hexdigest()
        state = {"step": step, "loss": chain}
        if args.beside and step % args.every == 0:
            with emit.stage(args.beside):
                time.sleep(args.beside_seconds)
        # Its loss first: killed between the two, it does the step again.
        if args.losses:
            with args.losses.open("a") as file:
                file.write(f"{step} {chain}\n")
        if args.save:
            partial = saved.with_suffix(".partial")
            partial.write_text(json.dumps(state))
            partial.replace(saved)
        emit.step(step, loss=int(chain[:8], 16) / 2**32, lr=1e-3, tokens=100)
        if not args.quiet and step % 10 == 0:
            print(f"step {step}", flush=True)
    emit.close()


if __name__ == "__main__":
    train(parse())
