"""Opens a stream as the trainer does and prints what came of it: a program, run by tests with HF_ENDPOINT set.

    python -m tests.support.stream_child '{"config": {…}, "batches": 3, "cursor": null}'

The last line of its output is JSON: batches' digest, cursor, progress; or the error.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

from nsa.config import Config
from nsa.data import build_tokenizer, open_stream
from nsa.errors import NsaError


def main() -> int:
    asked = json.loads(sys.argv[1])
    config = Config.model_validate(asked["config"])
    began = time.monotonic()
    seen = []
    digest = hashlib.sha256()
    documents = 0
    try:
        tokenizer = build_tokenizer(config)
        with open_stream(
            config,
            tokenizer,
            rank=0,
            world_size=1,
            cursor=asked.get("cursor"),
            progress=lambda p: seen.append(p.detail),
        ) as batches:
            began_reading = time.monotonic()
            for _ in range(asked["batches"]):
                batch = next(batches)
                digest.update(batch.tokens.tobytes())
                documents += batch.documents
            result = {
                "digest": digest.hexdigest(),
                "documents": documents,
                "cursor": batches.cursor(),
                "downloaded_bytes": batches.progress.downloaded_bytes,
                "waited_seconds": batches.progress.waited_seconds,
                "reading_seconds": time.monotonic() - began_reading,
            }
    except NsaError as error:
        result = {"error": type(error).__name__, "message": str(error), "exit_status": error.exit_status}
    print(json.dumps({**result, "seen": seen, "seconds": time.monotonic() - began}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
