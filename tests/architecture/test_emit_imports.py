"""What `import harness.emit` brings into a trainer: exactly this, on every Python."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.env import clean_env

_NEWLY = """
import sys, json
before = set(sys.modules)
{}
print(json.dumps(sorted(set(sys.modules) - before)))
"""
_AT_IMPORT = {"harness", "harness.emit", "harness.wire", "struct", "_struct"}
_AT_OPEN = {
    "harness.place",
    "harness.ranks",
    "harness.record",
    "harness.values",
    "mmap",
    "binascii",
    "faulthandler",
}


def newly_imported(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", _NEWLY.format(code)],
        env=clean_env(**env),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stdout))


def test_the_import_brings_exactly_these():
    # Fewer where the interpreter has one built in or loaded already.
    assert newly_imported("import harness.emit") <= _AT_IMPORT
    assert newly_imported("import harness.emit") >= {"harness", "harness.emit", "harness.wire", "struct"}


def test_an_unwatched_trainer_pays_for_nothing_more():
    code = "from harness import emit; emit.open(); emit.step(1, loss=1.0); emit.event('x'); emit.close()"
    assert newly_imported(code) <= _AT_IMPORT


def test_opening_a_record_brings_exactly_these(tmp_path):
    code = (
        "from harness import emit; emit.open(); emit.stage('x'); emit.step(1, loss=1.0); assert emit.enabled"
    )
    assert newly_imported(code, HARNESS_RUN_DIR=str(tmp_path)) <= _AT_IMPORT | _AT_OPEN
