"""What pydantic found wrong, in our words: value seen, what is wrong, remedy.

Covers every kind of error that the configuration's types can raise. Not here: the combinations, which the
sections of nsa.config word themselves, and the place (nsa.configfile.lines).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from nsa import configfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic_core import ErrorDetails


def worded(details: ErrorDetails, root: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """One pydantic error about a `root` as (dotted key, what is wrong)."""
    keys = [str(part) for part in details["loc"]]
    key, kind, value = ".".join(keys), details["type"], details["input"]
    context = details.get("ctx", {})
    seen = configfile.shown(value)
    if kind == "impossible":
        for below, what in context["problems"]:
            yield ".".join([*keys, below]), what
    elif kind in {"extra_forbidden", "invalid_key"}:
        yield key, f"{seen}: unknown key. {configfile.nearest(keys[-1], _fields(root, keys[:-1]))}"
    elif kind == "missing":
        yield key, "is missing. Set it; configs/quickstart.yaml shows every section"
    elif kind == "literal_error":
        yield key, f"{seen} is not one of {context['expected'].replace(chr(39), '')}. Choose one of them"
    elif kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        bound = next(context[name] for name in ("gt", "ge", "lt", "le") if name in context)
        words = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
        yield key, f"{seen} is out of range: it must be {words.get(kind, 'at most')} {bound}. Change it"
    elif kind == "finite_number":
        yield key, f"{seen} is not a finite number. Use one"
    elif kind == "string_pattern_mismatch":
        yield key, f"{seen} cannot name a folder. Use letters, digits, '.', '_' and '-'"
    elif kind in _WANTED:
        yield key, f"{seen} is not {_WANTED[kind]}. {_type_remedy(kind, value)}"
    else:
        yield key, f"{seen}: {details['msg']}. Change it"


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "too_short": "a list of the right length",
    "too_long": "a list of the right length",
    "model_type": "a section with keys",
    "model_attributes_type": "a section with keys",
}


def _type_remedy(kind: str, value: object) -> str:
    if kind in {"int_type", "float_type"} and isinstance(value, str):
        return "Remove the quotes, or the unit"
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f"Write {int(value)}"
    return "Put it under quotes" if kind == "string_type" else "Change it"


def _fields(root: type[BaseModel], section: Sequence[str]) -> tuple[str, ...]:
    """The keys that may stand in a section."""
    model = root
    for key in section:
        annotation = model.model_fields[key].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return tuple(model.model_fields)
