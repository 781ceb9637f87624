"""Opens streams as the trainer does and tells what came of it: a program, run by tests with HF_ENDPOINT set.

    python -m tests.support.stream_child

Reads one JSON object a line, {"config": {…}, "batches": 3, "cursor": null}, and answers each with one line:
batches' digest, cursor and progress, or the error, and how its process ended. Each runs in a process of its
own, forked after the imports: they cost more than all the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time

import huggingface_hub
import pyarrow.parquet  # noqa: F401 - to have it before the fork

from nsa.config import Config
from nsa.data import build_tokenizer, open_stream, sources
from nsa.errors import NsaError


def work(asked: dict) -> dict:
    config = Config.model_validate(asked["config"])
    began = time.monotonic()
    seen: list[str] = []
    digest = hashlib.sha256()
    try:
        tokenizer = build_tokenizer(config)
        with open_stream(
            config,
            tokenizer,
            rank=0,
            world_size=1,
            cursor=asked["cursor"],
            progress=lambda look: seen.append(look.detail),
        ) as batches:
            for _ in range(asked["batches"]):
                digest.update(next(batches).tokens.tobytes())
            result = {
                "digest": digest.hexdigest(),
                "cursor": batches.cursor(),
                "downloaded_bytes": batches.progress.downloaded_bytes,
                "waited_seconds": batches.progress.waited_seconds,
            }
    except NsaError as error:
        result = {"error": type(error).__name__, "message": str(error), "exit_status": error.exit_status}
    return {**result, "seen": seen, "seconds": time.monotonic() - began}


def main() -> int:
    sources.import_all()
    assert huggingface_hub.HfApi  # imported when it is first named
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            with open(writing, "w") as pipe:
                json.dump(work(json.loads(line)), pipe)
            return 0  # through the interpreter's whole end, as a program does
        os.close(writing)
        with open(reading) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(pid, 0)
        print(
            json.dumps({**json.loads(answer or "{}"), "ended": os.waitstatus_to_exitcode(status)}), flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
