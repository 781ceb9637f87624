"""Makes what a trainer hands over into what a record can hold; what cannot be made is None, nothing raises.

Anything may be handed over: tensors, arrays, text, objects whose `__float__` fails. Covers numbers, rates,
text and JSON. Used after `emit.open` alone, and there off the fast path. Standard library only.
"""

from struct import Struct

from harness import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DOUBLE = Struct("<d")
MAX_TOKENS = 2**48  # of one step
_MAX_SECONDS = 1e9  # of one phase in one step
_MAX_SHOWN = 200  # characters of what JSON has no word for


def as_float(value: object) -> float | None:
    """What `struct` takes for a double: numbers and what has `__float__`, but no text."""
    if value.__class__ is float:
        return value
    try:
        number: float = _DOUBLE.unpack(_DOUBLE.pack(value))[0]
    except Exception:  # noqa: BLE001 (any __float__ may have been called)
        return None
    return number


def as_int(value: "Any") -> int | None:
    """A whole number of 64 bits, of whatever type."""
    try:
        number = None if isinstance(value, str | bytes) else int(value)
        return number if number is not None and number == value and -(2**63) <= number < 2**63 else None
    except Exception:  # noqa: BLE001 (any __int__ may have been called)
        return None


def as_tokens(value: object) -> int | None:
    """A number of tokens."""
    number = as_int(value)
    return number if number is not None and 0 <= number < MAX_TOKENS else None


def int_of_text(text: str) -> int | None:
    """A number from the environment."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else None


def as_text(value: object, limit: int = wire.NAME_BYTES) -> bytes:
    """A name, cut to what its field holds."""
    try:
        return wire.pack_text(value if isinstance(value, str) else str(value), limit)
    except Exception:  # noqa: BLE001 (any __str__ may have been called)
        return b"?"


def as_rates(lr: "Any") -> list[float]:
    """One learning rate per parameter group; NaN for what is no number, so that groups keep their places."""
    if lr is None or isinstance(lr, str | bytes):
        return []
    rates: list[float] = []
    try:
        for value in lr:
            rate = as_float(value)
            rates.append(float("nan") if rate is None else rate)
            if len(rates) == wire.MAX_RATES:
                break
    except Exception:  # noqa: BLE001 (not a sequence: one rate, then)
        rate = as_float(lr)
        return [] if rate is None else [rate]
    return rates


def as_memory(memory: "Any") -> tuple[int, int, int] | None:
    """(allocated, reserved, peak), whole or not at all."""
    try:
        allocated, reserved, peak = map(as_int, memory)
    except Exception:  # noqa: BLE001 (not three of anything)
        return None
    return None if allocated is None or reserved is None or peak is None else (allocated, reserved, peak)


def as_phase_seconds(seconds: "Any") -> list[tuple[object, float]]:
    """The entries of a mapping that are durations."""
    try:
        return [
            (name, number)
            for name, value in seconds.items()
            if (number := value if value.__class__ is float else as_float(value)) is not None
            and 0.0 <= number < _MAX_SECONDS
        ]
    except Exception:  # noqa: BLE001 (not a mapping)
        return []


def as_json_line(fields: "dict[str, object]", ours: "dict[str, object]", limit: int) -> str:
    """One line of JSON; NaN and infinities in words, as everywhere in a run; too long: without `fields`."""
    import json

    try:
        try:
            line = json.dumps({**fields, **ours}, default=_shown, allow_nan=False)
        except ValueError:
            line = json.dumps({**_in_words(fields), **ours}, default=_shown, allow_nan=False)
    except Exception as error:  # noqa: BLE001 (circular, too deep, or a __repr__ that fails)
        return json.dumps({**ours, "dropped": type(error).__name__})
    return line if len(line) <= limit else json.dumps({**ours, "dropped": f"{len(line)} characters"})


def _in_words(value: "Any") -> "Any":
    if isinstance(value, float):
        if value != value:
            return "NaN"
        return {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(value, value)
    if isinstance(value, dict):
        return {key: _in_words(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_in_words(inner) for inner in value]
    return value


def _shown(value: object) -> str:
    return repr(value)[:_MAX_SHOWN]
