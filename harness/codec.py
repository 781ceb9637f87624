"""Frozen dataclasses to JSON and back, by their annotations; strict on the way back.

Covered: str, int, float (with NaN and infinities), bool, Literal, tuples, dictionaries with text keys,
dataclasses, unions of dataclasses, `Reading`/`Missing`, and free JSON (`evidence.Json`). Text may hold
anything that a Python str can: control characters, NUL, lone surrogates. What is read is treated as hostile:
whatever does not fit raises `RecordError` with the path to it; unknown keys are passed over, missing ones
need a default.

Not covered: files (`harness.bundle`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from functools import cache
from typing import Any, Literal, TypeVar, Union

from harness import evidence
from harness.errors import RecordError

T = TypeVar("T")

# JSON has no such numbers. NaN comes back as the one `math.nan`: in free JSON it then equals what was saved.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# Beyond what json escapes by itself: what a terminal may obey, and what turns the direction of text.
_ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\udc00-\udfff]")


def dumps(value: object) -> bytes:
    """JSON for a file: readable, one item a line near the top, harmless to show on a terminal."""
    text = json.dumps(encode(value), ensure_ascii=False, allow_nan=False, indent=1)
    # Low surrogates are escaped, high ones are not: two escapes in a row would come back as one character.
    text = _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.encode("utf-8", "surrogatepass")


def loads(kind: type[T], data: bytes, *, name: str = "JSON") -> T:
    """The value of type `kind` that `dumps` wrote; RecordError for anything else."""
    try:
        raw = json.loads(data.decode("utf-8", "surrogatepass"), parse_constant=_refuse_constant)
        return typing.cast("T", _decode(kind, raw, ""))
    except RecursionError:
        raise RecordError(f"{name}: nested too deeply to be a Case") from None
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from None
    except (ValueError, OverflowError) as error:
        raise RecordError(f"{name}: not JSON that the harness wrote ({error})") from None


def encode(value: object) -> object:
    """Plain JSON types for any value that `loads` can read back."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _name_of(value)
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode_free(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        encoded = {name: encode(getattr(value, name)) for name in _fields(type(value))}
        return {"is": type(value).__name__, **encoded} if isinstance(value, _TAGGED) else encoded
    raise TypeError(f"no JSON for {type(value).__name__}")


# Members of unions that their fields do not tell apart.
_TAGGED = (evidence.Syscall, evidence.Running)


def _encode_free(value: object) -> object:
    """Free JSON: a float that JSON lacks is `{"$float": …}`, a key that begins with $ gets one more."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": _name_of(value)}
    if isinstance(value, list):
        return [_encode_free(item) for item in value]
    if isinstance(value, dict):
        return {f"${key}" if key.startswith("$") else key: _encode_free(item) for key, item in value.items()}
    return encode(value)


def _decode_free(value: object) -> object:
    if isinstance(value, list):
        return [_decode_free(item) for item in value]
    if isinstance(value, dict):
        if list(value) == ["$float"]:
            return _NOT_FINITE.get(str(value["$float"]), math.nan)
        return {key.removeprefix("$"): _decode_free(item) for key, item in value.items()}
    return value


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Per field: its annotation, and whether it has a default."""
    hints = typing.get_type_hints(kind)
    return {
        item.name: (
            hints[item.name],
            item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING,
        )
        for item in dataclasses.fields(kind)
    }


def _decode(kind: Any, raw: object, path: str) -> object:
    if kind is Any:
        return _decode_free(raw)
    if kind is float:
        return _decode_float(raw, path)
    if kind is int and type(raw) is int and not -(2**63) <= raw < 2**64:
        return _refuse("a number of 64 bits", raw, path)
    if kind in (str, int, bool):
        # bool is a kind of int: only the exact type will do.
        return raw if type(raw) is kind else _refuse(kind.__name__, raw, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return (
            raw
            if any(raw == each and type(raw) is type(each) for each in arguments)
            else _refuse(kind, raw, path)
        )
    if origin is tuple:
        return _decode_tuple(arguments, raw, path)
    if origin is dict:
        if not isinstance(raw, dict):
            return _refuse("an object", raw, path)
        free = {key: _decode_free(item) for key, item in raw.items()}
        return (
            free
            if arguments[1] is Any
            else {key: _decode(arguments[1], item, f"{path}.{key}") for key, item in free.items()}
        )
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, raw, path)
    return _decode_dataclass(origin or kind, arguments, raw, path)


def _decode_float(raw: object, path: str) -> object:
    if isinstance(raw, str) and raw in _NOT_FINITE:
        return _NOT_FINITE[raw]
    return (
        float(raw)
        if isinstance(raw, (int, float)) and not isinstance(raw, bool)
        else _refuse("a number", raw, path)
    )


def _decode_tuple(arguments: tuple[Any, ...], raw: object, path: str) -> object:
    if not isinstance(raw, list):
        return _refuse("a list", raw, path)
    kinds = [arguments[0]] * len(raw) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(raw):
        return _refuse(f"{len(kinds)} items", raw, path)
    return tuple(
        _decode(kind, item, f"{path}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, raw, strict=True))
    )


def _decode_union(arguments: tuple[Any, ...], raw: object, path: str) -> object:
    if not isinstance(raw, dict):
        return _refuse("an object", raw, path)
    if evidence.Missing in arguments:
        readings = [each for each in arguments if each is not evidence.Missing]
        kind = evidence.Missing if "reason" in raw else readings[0]
        return _decode(kind, raw, path)
    for each in arguments:
        if each.__name__ == raw.get("is"):
            return _decode(each, raw, path)
    return _refuse(" or ".join(each.__name__ for each in arguments), raw.get("is"), path)


def _decode_dataclass(kind: type, arguments: tuple[Any, ...], raw: object, path: str) -> object:
    if not isinstance(raw, dict):
        return _refuse(kind.__name__, raw, path)
    values: dict[str, object] = {}
    for name, (annotation, has_default) in _fields(kind).items():
        if name in raw:
            # Reading is the one generic: its TypeVar stands for the argument that it was written with.
            annotation = arguments[0] if isinstance(annotation, TypeVar) else annotation
            values[name] = _decode(annotation, raw[name], f"{path}.{name}")
        elif not has_default:
            return _refuse(f"{kind.__name__} with a field {name!r}", None, path)
    return kind(**values)


def _refuse(expected: object, raw: object, path: str) -> object:
    found = "nothing" if raw is None else ascii(raw)[:60]
    raise RecordError(f"{path.removeprefix('.') or 'top'}: expected {expected}, found {found}")
