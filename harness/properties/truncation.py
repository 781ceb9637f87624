"""What truncation must do, where it is asked for: at most `limit` tokens, and nothing lost below it.

Truncating to silence a tokenizer's warning throws text away: to keep all of it, pack (`check_packing`).
Not covered: whether the tokens are the right ones.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.properties.faults import EXAMPLES, Fault, PropertyFault, distinct, name_of, smallest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_WARNED_ONCE = "sequence-length-is-longer-than-the-specified-maximum"
# Words, digits, spaces, accents, an astral letter, a NUL, a lone surrogate.
_PIECES = ("a", "the ", "word ", "12345 ", "\n\n  ", "it's ", "é", "\U0001d11e", "\x00", "\ud800")


def check_truncation(
    tokenizer: Any,
    *,
    limit: int,
    encode: Callable[[str], Sequence[int]] | None = None,
    eos_id: int | None = None,
    examples: int = EXAMPLES,
    seed: int = 0,
) -> None:
    """Raise PropertyFault where truncated encodings are too long, too short, without their end, or warn.

    Args:
        tokenizer: `tokenizer(text)` gives all of a text's ids, as a list, or as something with `input_ids`
            or `ids` (transformers, tokenizers).
        limit: most tokens that may leave, the end-of-text token among them.
        encode: what is under test: text to at most `limit` ids. Where it is not given,
            `tokenizer(text, truncation=True, max_length=limit)`.
        eos_id: the end-of-text token, where `encode` appends one: it has to survive.
        examples: texts to draw.
        seed: of the draw.
    """
    __tracebackhide__ = True
    if limit < 1:
        raise ValueError(f"limit is {limit}: it must be 1 or more")

    def trial(text: str) -> _Trial:
        with _heard():  # asked for all of a text, a tokenizer of transformers warns: not what is tested
            whole = _ids(tokenizer(text))
        # And it warns once: let it do so again.
        once = getattr(tokenizer, "deprecation_warnings", None)
        if isinstance(once, dict):
            once.pop(_WARNED_ONCE, None)
        with _heard() as warned:
            found = encode(text) if encode else tokenizer(text, truncation=True, max_length=limit)
        return _Trial(text=text, whole=whole, kept=_ids(found), warned=warned, limit=limit, eos_id=eos_id)

    def texts(st: Any) -> Any:
        # A piece and a count: a text of a thousand tokens is made smaller as quickly as one of two.
        some = st.lists(st.sampled_from(_PIECES), max_size=6).map("".join)
        repeated = st.builds(lambda piece, n: piece * n, st.sampled_from(_PIECES), st.integers(0, 2 * limit))
        near = st.integers(max(0, limit - 3), limit + 3).map(lambda n: "a " * n)
        return (some | repeated | near | st.builds(str.__add__, some, repeated)).filter(_encodable(tokenizer))

    found = distinct(
        smallest(
            texts,
            lambda text, rule=rule: rule(trial(text)),  # type: ignore[misc]
            said=lambda text: f"limit {limit}, text {_said(text)}",
            examples=examples,
            seed=seed,
        )
        for rule in _RULES
    )
    if found:
        raise PropertyFault(f"{name_of(tokenizer)}, limit {limit}", found)


def _ids(found: Any) -> list[int]:
    for name in ("input_ids", "ids"):
        if hasattr(found, name):
            return [int(each) for each in getattr(found, name)]
    return [int(each) for each in found]


def _encodable(tokenizer: Any) -> Callable[[str], bool]:
    """Some tokenizers refuse lone surrogates: a clear error is not a fault of truncation."""

    def encodes(text: str) -> bool:
        try:
            with _heard():
                tokenizer(text)
        except (UnicodeError, TypeError, ValueError):
            return False
        return True

    return encodes


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """What is said as a warning meanwhile; said to nobody else."""
    said: list[str] = []
    logger = logging.getLogger("transformers")
    handlers, propagate = logger.handlers[:], logger.propagate
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.handlers[:], logger.propagate = [listener], False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
            said += [str(each.message) for each in caught]
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate


def _said(text: str) -> str:
    shown = text if len(text) <= 24 else f"{text[:20]}…"
    return f"{shown!a} ({len(text)} characters)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """One text, and what became of it."""

    text: str
    whole: list[int]
    kept: list[int]
    warned: list[str]
    limit: int
    eos_id: int | None

    @property
    def where(self) -> str:
        return f"limit {self.limit}, text {_said(self.text)}"


def _not_too_long(trial: _Trial) -> Fault | None:
    if len(trial.kept) <= trial.limit:
        return None
    return Fault(
        property="never more than the limit",
        example=f"{len(trial.kept)} tokens leave; {trial.where}",
        remedy="Count the end-of-text token in before truncating",
    )


def _not_too_short(trial: _Trial) -> Fault | None:
    if len(trial.kept) >= min(len(trial.whole) + (trial.eos_id is not None), trial.limit):
        return None
    return Fault(
        property="nothing is lost that fits",
        example=f"{len(trial.kept)} of {len(trial.whole)} tokens leave; {trial.where}",
        remedy="The limit counts whole tokens: max_length is the limit itself, not one less",
    )


def _the_same_beginning(trial: _Trial) -> Fault | None:
    ends = trial.eos_id is not None and trial.kept[-1:] == [trial.eos_id]
    kept = trial.kept[:-1] if ends else trial.kept
    for place, (one, other) in enumerate(zip(kept, trial.whole, strict=False)):
        if one != other:
            return Fault(
                property="what leaves is the text's beginning",
                example=f"token {place} is {one}, not {other}; {trial.where}",
                remedy="Truncate at the right (truncation_side='right')",
            )
    return None


def _end_survives(trial: _Trial) -> Fault | None:
    if trial.eos_id is None or trial.kept[-1:] == [trial.eos_id]:
        return None
    return Fault(
        property="the end-of-text token survives",
        example=f"the last token is {trial.kept[-1:]}, not {trial.eos_id}; {trial.where}",
        remedy="Truncate to limit - 1, then append it: without it the document runs into the next",
    )


def _silent(trial: _Trial) -> Fault | None:
    if not trial.warned:
        return None
    return Fault(
        property="no warning",
        example=f"{trial.warned[0]!r}; {trial.where}",
        remedy="Give the tokenizer model_max_length=int(1e30), and cut yourself",
    )


_RULES = (_not_too_long, _not_too_short, _the_same_beginning, _end_survives, _silent)
