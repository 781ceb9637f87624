"""A YAML file with overrides, read into plain values that know where they came from.

Covers reading, duplicate keys, YAML 1.2 floats (`2e-4`) and `--set key=value`; says what is wrong in one
line each. Not here: what the keys mean (nsa.config).
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

import yaml

from nsa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

# PyYAML follows YAML 1.1, where 2e-4 and 1e6 are strings; the configurations are full of learning rates.
_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$")
# A literal is repeated in an error line: a whole pasted document there would hide the remedy.
_SHOWN_CHARACTERS = 80


class DuplicateKeyError(yaml.YAMLError):
    """A mapping names a key twice; YAML would silently keep the last."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 2e-4 as a number and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raise DuplicateKeyError for a key given twice."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.start_mark)
            line = key_node.start_mark.line + 1
            if key in seen and key != "<<":
                raise DuplicateKeyError(
                    f"{_key(key)}: is given twice, at lines {seen[key]} and {line}. Keep one"
                )
            seen[key] = line
        return super().construct_mapping(node, deep=deep)


# Copied before it is changed: the table is shared with every SafeLoader of the process.
_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:float"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"), list("-+.")
)


def shown(value: object) -> str:
    """A value as it stands in an error line: short, on one line, strings quoted only where it helps."""
    text = repr(value) if isinstance(value, str) else _yaml_like(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _key(dotted: str) -> str:
    """A key as it stands in an error line: what a file holds is shown, not obeyed."""
    return dotted if dotted.isprintable() and len(dotted) <= _SHOWN_CHARACTERS else shown(dotted)


def _yaml_like(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(str(value).split())


def nearest(word: str, known: Iterable[str]) -> str:
    """The remedy for an unknown word: the nearest known one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(names)}"


def read(path: Path) -> dict[str, Any]:
    """Read the mapping in `path`; ConfigError in one line for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Check the path; the examples stand in configs/") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder. Name the YAML file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}). Is it a YAML file?") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. Check its permissions") from None
    value = _parse(text, str(path))
    if value is None:
        raise ConfigError(f"{path}: is empty. Start from configs/quickstart.yaml")
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}: holds a {_kind(value)}, not keys with values. Start from configs/quickstart.yaml"
        )
    return value


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 — a SafeLoader, with two rules more
    except DuplicateKeyError as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.MarkedYAMLError as error:
        at = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = error.problem or error.context or "cannot be parsed"
        raise ConfigError(f"{where}{at}: is not valid YAML: {problem}. Mend that line") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or ["cannot be parsed"])[0]
        raise ConfigError(f"{where}: is not valid YAML: {first}") from None
    except (LookupError, AttributeError):  # PyYAML of `!!bool maybe`, `!!int`, `!!timestamp soon`
        raise ConfigError(
            f"{where}: is not valid YAML: a value does not fit its tag (!!bool, !!int …). Remove the tag"
        ) from None


def _kind(value: object) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "true/false"}.get(
        type(value), "value"
    )


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """`train.steps=500` as (("train", "steps"), 500); the value is read as YAML."""
    key, equals, value = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"--set {shown(text)}: is not key=value. Write for instance --set train.steps=500")
    return keys, _parse(value, f"--set {_key(key.strip())}")


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> frozenset[str]:
    """Set each `key=value` in `raw`; return the dotted keys that were set."""
    given: set[str] = set()
    for text in overrides:
        keys, value = parse_override(text)
        target: Any = raw
        for depth, key in enumerate(keys[:-1], start=1):
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                above = _key(".".join(keys[:depth]))
                raise ConfigError(
                    f"--set {_key('.'.join(keys))}: {above} is a {_kind(target)}, it has no keys. Set {above}"
                )
        target[keys[-1]] = value
        given.add(".".join(keys))
    return frozenset(given)


def lines(path: Path, problems: Iterable[tuple[str, str]], given: frozenset[str]) -> str:
    """One line a problem, each with the place to mend: the file, or the --set that brought the value."""
    said: Mapping[str, None] = dict.fromkeys(
        f"--set {_key(key)}: {what}"
        if key in given
        else f"{path}: {_key(key)}: {what}"
        if key
        else f"{path}: {what}"
        for key, what in problems
    )
    return "\n".join(said)
