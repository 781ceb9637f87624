"""Waits for a subprocess that is no Python and works: it packs a large folder."""

import subprocess

TRUTH = {"state": ["healthy", "slow"], "cause": ["slow-io", "child-wait", "healthy"], "settle_seconds": 0.5}


def pack():
    print("READY", flush=True)
    subprocess.run("head -c 20000000000 /dev/zero | gzip -9 >/dev/null", shell=True, check=True)


pack()
