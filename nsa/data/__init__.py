"""Text in, batches out: one packed stream of tokens, with an exact cursor and bounded waits.

The façade: what the loop and the command line need. Sources are in sources, hub and local_docs; packing in
packing; order and split in stream; the thread in readahead; staging in fetch; all put together in opening.
"""

from nsa.data.batches import Batches
from nsa.data.cursor import CursorMismatchError
from nsa.data.fetch import fetch
from nsa.data.meter import LoaderProgress
from nsa.data.opening import build_tokenizer, open_stream
from nsa.data.stream import Batch

__all__ = [
    "Batch",
    "Batches",
    "CursorMismatchError",
    "LoaderProgress",
    "build_tokenizer",
    "fetch",
    "open_stream",
]
