"""A YAML file as nodes that know their line, so that every mistake in a plan can be pointed at.

Values are read from nodes and not from loaded objects: `2e-4` is a number here, as in YAML 1.2, and `yes` is
text. `{name}` stands for a value of the plan. Not here: what the keys mean (`plan`).
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from harness.errors import UsageError
from harness.render.text import single_line
from harness.sizes import bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_MAX_BYTES = 1 << 20
# Not `${name}`, which is the shell's.
_NAME = re.compile(r"(?<!\$)\{([a-z][a-z0-9_]*)\}")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_SHOWN_CHARACTERS = 60
_NESTING = 50
_LONGEST_SECONDS = 30 * 24 * 3600.0


class PlanError(UsageError):
    """A plan with a mistake; the message names file, line, key, value and remedy."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(_printable(message), remedy=_printable(remedy))


def _printable(text: str) -> str:
    """On one line; what has no shape (a soft hyphen in a key, say) by its number."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in single_line(text)
    )


class Values:
    """What `{names}` stand for, and which of them were used."""

    def __init__(self, values: Mapping[str, str | tuple[str, ...]]) -> None:
        self._values = dict(values)
        self.used: set[str] = set()

    def get(self, name: str) -> str | tuple[str, ...] | None:
        """What `name` stands for."""
        self.used.add(name)
        return self._values.get(name)

    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._values)

    def replaced(self, name: str, value: str) -> Values:
        """The same with one value of its own; they share what was used."""
        other = Values({**self._values, name: value})
        other.used = self.used
        return other


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A value in the file, and where it stands."""

    file: str
    line: int
    key: str
    node: yaml.Node
    values: Values

    def wrong(self, what: str, remedy: str) -> PlanError:
        """An error that points here."""
        at = f"{self.key}: " if self.key else ""
        return PlanError(f"{self.file}:{self.line}: {at}{what}", remedy=remedy)

    def with_values(self, values: Values) -> Item:
        """The same place, other values."""
        return Item(file=self.file, line=self.line, key=self.key, node=self.node, values=values)

    @property
    def is_mapping(self) -> bool:
        """Whether it has keys."""
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_sequence(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def mapping(self, known: Sequence[str] | None = None) -> dict[str, Item]:
        """Its keys; PlanError for one that is unknown or given twice."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{self._shown()} where keys with values belong", "Write key: value lines")
        found: dict[str, Item] = {}
        for key_node, node in self.node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            item = self._below(f"{self.key}.{name}" if self.key else name, key_node, node)
            if name in found:
                raise item.wrong(f"is given twice, at lines {found[name].line} and {item.line}", "Keep one")
            if known is not None and name not in known:
                raise item.wrong("unknown key", nearest(name, known))
            found[name] = item
        return found

    def sequence(self) -> list[Item]:
        """Its elements; something else is a list of one."""
        if not isinstance(self.node, yaml.SequenceNode):
            return [self]
        return [self._below(f"{self.key}[{n}]", node, node) for n, node in enumerate(self.node.value)]

    def strict_sequence(self) -> list[Item]:
        """Its elements; PlanError for anything but a list."""
        if not self.is_sequence:
            raise self.wrong(f"{self._shown()} where a list belongs", "Begin each element with a dash")
        return self.sequence()

    def text(self) -> str:
        """A scalar, with the `{names}` in it replaced."""
        raw = self._scalar()

        def replaced(match: re.Match[str]) -> str:
            value = self._value(match[1])
            return value if isinstance(value, str) else " ".join(value)

        return _NAME.sub(replaced, raw)

    def words(self) -> tuple[str, ...]:
        """A scalar that may stand for several words: `{name}` alone, of a value that is a list."""
        alone = _NAME.fullmatch(self._scalar())
        value = self._value(alone[1]) if alone else self.text()
        return (value,) if isinstance(value, str) else value

    def texts(self) -> tuple[str, ...]:
        """A list of texts, or one."""
        return tuple(word for item in self.sequence() for word in item.words())

    def number(self) -> float:
        """A finite number."""
        text = self.text()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.wrong(f"{shown(text)} is not a number", "Write one, for instance 0.5 or 2e-4")
        return value

    def count(self, least: int = 0, most: float = math.inf) -> int:
        """A whole number."""
        text = self.text()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value == int(value) and least <= value <= most):
            bounds = f"of {least} or more" if most == math.inf else f"from {least} to {most:g}"
            raise self.wrong(f"{shown(text)} is not a whole number {bounds}", "Write one")
        return int(value)

    def positive(self) -> float:
        """A finite number above 0."""
        value = self.number()
        if value <= 0:
            raise self.wrong(
                f"{shown(self.text())} is not above 0", "Write such a number, for instance 0.5 or 2e-4"
            )
        return value

    def seconds(self) -> float:
        """A time: 90, 90 s, 1.5 m."""
        match = _TIME.fullmatch(self.text().strip())
        value = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
        if not 0 < value <= _LONGEST_SECONDS:
            what = "is more than 30 days" if value else "is no time"
            raise self.wrong(f"{shown(self.text())} {what}", "Write seconds (90) or minutes (5 m)")
        return value

    def size(self) -> int:
        """A size in bytes: 500M, 2 GB."""
        value = bytes_of(self.text())
        if not value:
            raise self.wrong(f"{shown(self.text())} is no size", "Write 500M or 2G")
        return value

    def boolean(self) -> bool:
        """`true` or `false`."""
        text = self.text()
        if text not in ("true", "false"):
            raise self.wrong(f"{shown(text)} is neither true nor false", "Write one of them")
        return text == "true"

    def pattern(self) -> str:
        """A regular expression; braces in it are its own."""
        raw = self._scalar()
        if not raw:
            raise self.wrong("is empty, which every line matches", "Write a regular expression")
        try:
            re.compile(raw)
        except re.error as error:
            raise self.wrong(f"{shown(raw)} is not a regular expression: {error}", "Mend it") from None
        return raw

    def scalar(self) -> str | float | bool:
        """What a value may equal: true, false, a number, or text."""
        text = self.text()
        if text in ("true", "false"):
            return text == "true"
        try:
            return float(text)
        except ValueError:
            return text

    def _scalar(self) -> str:
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.wrong(f"{self._shown()} where one value belongs", "Write it on this line")
        text: str = self.node.value
        if "\0" in text:
            raise self.wrong("holds a NUL character", "Remove it")
        return text

    def _value(self, name: str) -> str | tuple[str, ...]:
        value = self.values.get(name)
        if value is None:
            known = self.values.names()
            raise self.wrong(f"{{{name}}} stands for nothing", f"Set it under values. {nearest(name, known)}")
        return value

    def _below(self, key: str, mark_of: yaml.Node, node: yaml.Node) -> Item:
        line = mark_of.start_mark.line + 1
        return Item(file=self.file, line=line, key=key, node=node, values=self.values)

    def _shown(self) -> str:
        kind = "a list" if self.is_sequence else "keys" if self.is_mapping else None
        return kind or shown(getattr(self.node, "value", ""))


def read(path: Path, values: Values) -> Item:
    """The root of a YAML file; PlanError or UsageError in one line where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise PlanError(f"{path}: no such file", remedy="Examples stand in configs/smoke/") from None
    except OSError as error:
        raise PlanError(
            f"{path}: cannot be read: {error.strerror}", remedy="Name a plan's YAML file"
        ) from None
    if len(data) > _MAX_BYTES:
        raise PlanError(f"{path}: is larger than a plan can be (1 MB)", remedy="Name a plan's YAML file")
    return parse(data, str(path), values)


def parse(data: bytes | str, name: str, values: Values) -> Item:
    """The root of a YAML document."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_nesting(node)
    except UnicodeDecodeError as error:
        raise PlanError(f"{name}: is not UTF-8 text (byte {error.start})", remedy="Is it YAML?") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = error.problem or error.context or "cannot be parsed"
        raise PlanError(f"{name}:{line}: is not valid YAML: {problem}", remedy="Mend that line") from None
    except (yaml.YAMLError, ValueError) as error:
        first = (str(error).splitlines() or ["cannot be parsed"])[0]
        raise PlanError(f"{name}: is not valid YAML: {first}", remedy="Mend it") from None
    except RecursionError:
        raise PlanError(
            f"{name}: is nested too deeply", remedy="A plan needs no more than five levels"
        ) from None
    if node is None:
        raise PlanError(f"{name}: is empty", remedy="Start from configs/smoke/cpu.yaml")
    return Item(file=name, line=node.start_mark.line + 1, key="", node=node, values=values)


def _check_nesting(node: yaml.Node | None, depth: int = 0) -> None:
    """RecursionError for what is nested without end: an anchor may hold itself."""
    if depth > _NESTING:
        raise RecursionError
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for each in child if isinstance(child, tuple) else (child,):
            _check_nesting(each, depth + 1)


def nearest(word: str, known: Iterable[str]) -> str:
    """The remedy for an unknown word: the nearest known one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(names) or 'none'}"


def shown(text: str) -> str:
    """A value as it stands in an error line."""
    found = repr(text)
    return found if len(found) <= _SHOWN_CHARACTERS else found[: _SHOWN_CHARACTERS - 1] + "…"
