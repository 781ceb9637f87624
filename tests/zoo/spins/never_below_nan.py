"""Iterates until an error is small enough, and the error is NaN: no comparison with it is ever true."""

import threading
import time

TRUTH = {"state": "hung", "cause": "python-spin", "blame": ["solve"]}


def residual(x):
    return x * 0.5 if x < 1e3 else float("nan")


def solve(x, tolerance):
    error = residual(x)
    while not error < tolerance:
        error = residual(x)
    return error


def report():
    while True:
        time.sleep(0.5)


threading.Thread(target=report, name="reporter", daemon=True).start()
print("READY", flush=True)
solve(1e4, 1e-6)
