"""A C++ extension is built when it is first used; the compiler takes its time over a template."""

import os
import subprocess
import tempfile

TRUTH = {
    "state": "slow",
    "cause": "compiling",
    "blame": ["build"],
    "facts": ["g++"],
    "needs": ["g++"],
    "settle_seconds": 0.5,
}
SOURCE = """
constexpr unsigned long sieve(unsigned long n) {
    unsigned long found = 0;
    for (unsigned long i = 2; i < n; ++i) {
        bool prime = true;
        for (unsigned long j = 2; j < i; ++j) if (i % j == 0) { prime = false; break; }
        found += prime;
    }
    return found;
}
constexpr unsigned long table = sieve(400000);
"""


def build(folder):
    source = os.path.join(folder, "kernel.cpp")
    with open(source, "w") as file:
        file.write(SOURCE)
    limits = ["-fconstexpr-ops-limit=100000000000", "-fconstexpr-loop-limit=2000000000"]
    print("READY", flush=True)
    subprocess.run(["g++", "-std=c++17", "-c", *limits, source, "-o", f"{source}.o"], check=True)


build(tempfile.mkdtemp())
