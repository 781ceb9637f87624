"""Stage `tokenizer`: long and odd documents come back whole, no warning, no id out of range."""

from __future__ import annotations

import logging
import time
import warnings
from typing import TYPE_CHECKING

from nsa.report import say
from nsa.smoke.stage import SmokeError, measured, tokenizer_of

if TYPE_CHECKING:
    from nsa.smoke.stage import Task
    from nsa.tokenizer import Tokenizer

_PROSE = "The trained model reads what a person wrote about rivers, bread and copper; it's 1,249 words long. "
# Documents are longer than the sequence by this much at least.
_LENGTHS = 10
_ODD = (
    "",
    "a",
    "\n\n\t  x = 1\r\n",
    "Grüße, 東京, Ελλάδα, 🙂🙂, e\u0301",
    "<|endoftext|> inside a document is text",
    "\0 and \x7f",
    "9" * 500,
)


class _Heard(logging.Handler):
    """Keeps what libraries log as warnings."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(record.getMessage())


def run(task: Task) -> None:
    """Encode, decode, compare."""
    config = task.load()
    tokenizer = tokenizer_of(config)
    long = _PROSE * (_LENGTHS * config.data.sequence_length // 4 + 1)
    heard = _Heard()
    logging.getLogger("transformers").addHandler(heard)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        began = time.monotonic()
        tokens = tokenizer.encode(long)
        seconds = time.monotonic() - began
        for text in (*_ODD, long):
            _check(tokenizer, text)
    said = [*heard.lines, *(str(each.message) for each in warned)]
    if said:
        raise SmokeError(
            f"a document of {len(tokens):,} tokens makes it warn: {said[0][:200]}. Nothing may be truncated"
            " to silence it: set model_max_length where the tokenizer is made"
        )
    if len(tokens) <= _LENGTHS * config.data.sequence_length:
        raise SmokeError(
            f"{len(long):,} characters became only {len(tokens):,} tokens: is the text cut? Look at tokenizer"
        )
    say(f"{config.tokenizer.kind}, {tokenizer.vocab_size:,} tokens, end of text {tokenizer.eos_id}")
    measured(
        vocabulary=tokenizer.vocab_size,
        longest_document_tokens=len(tokens),
        characters_per_token=len(long) / len(tokens),
        characters_per_second=len(long) / max(seconds, 1e-9),
    )


def _check(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    shown = repr(text if len(text) <= 40 else f"{text[:39]}…")
    for token in tokens:
        if not 0 <= token < tokenizer.vocab_size:
            raise SmokeError(
                f"{shown} becomes token {token}, outside of 0 to {tokenizer.vocab_size - 1}: the tokenizer's"
                " files do not fit each other. Name a whole tokenizer in tokenizer.path"
            )
    if tokenizer.eos_id in tokens:
        raise SmokeError(
            f"{shown} becomes the end-of-text token {tokenizer.eos_id}: a document could end others. The"
            " tokenizer must take the literal text for text (split_special_tokens)"
        )
    back = tokenizer.decode(tokens)
    if back != text:
        at = next(
            (n for n, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back))
        )
        raise SmokeError(
            f"{shown} comes back with {len(back):,} of its {len(text):,} characters, different from"
            f" {text[at : at + 10]!r} on: text is lost. The tokenizer's vocabulary lacks something, or it"
            " truncates: name a whole one in tokenizer.path"
        )
    if tokenizer.encode_batch([text, text]) != [tokens, tokens]:
        raise SmokeError(f"{shown} is encoded otherwise in a batch. Use one version of tokenizers")
