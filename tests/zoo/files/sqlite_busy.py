"""Writes into a study's database while another process holds it: SQLite sleeps between its tries."""

import os
import sqlite3
import time

TRUTH = {
    "state": "hung",
    "cause": "file-lock",
    "blame": ["record"],
    "facts": ["study.db", "holds it"],
    "settle_seconds": 0.3,
}


def record(study, value):
    with study:
        study.execute("insert into trials values (?)", (value,))


def main():
    told, tells = os.pipe()
    with sqlite3.connect("study.db") as study:
        study.execute("create table trials (value)")
    study.close()
    if os.fork() == 0:
        other = sqlite3.connect("study.db", isolation_level=None)
        other.execute("begin exclusive")
        os.write(tells, b".")
        time.sleep(1_000)
    os.read(told, 1)
    study = sqlite3.connect("study.db", timeout=3_600)
    print("READY", flush=True)
    record(study, 1.0)


main()
