"""What looks like a secret, struck out: of command lines, of configuration files, of lines of a log.

Names that say so (`--hf-token`, `api_key:`) lose their value; values that are recognisable by themselves
(`hf_…`, a password in a URL) go whatever stands before them. Better one too many than one too few. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STRUCK = "***"
# Option names whose value is a secret, and values that are one whatever the option's name.
_SECRET_NAME = re.compile(
    r"(^|[-_])(((hf|hub|auth|access|api|bearer|github|login)[-_]?)token|passw(or)?d|secret|api[-_]?key"
    r"|(access|secret)[-_]?key|credentials?)$|^-*token$",  # --max-token and --eos-token are none
    re.IGNORECASE,
)
_KNOWN = r"(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|AKIA|xox[abp]-)[A-Za-z0-9_-]{12,}"
_SECRET_VALUE = re.compile(rf"^{_KNOWN}$|://[^/@\s]+:[^/@\s]+@")
_IN_TEXT = re.compile(
    rf"\b{_KNOWN}|(?P<scheme>://[^/@\s:]{{0,200}}:)[^/@\s]{{1,200}}(?=@)"
    r"|(?P<bearer>\bBearer\s+)[A-Za-z0-9._~+/=-]{12,}"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,40}-----)?"
)
# `name: value` of YAML, `name = value` of TOML, `"name": "value"` of JSON, NAME=value of a shell; a value
# without quotes goes to the end of its line, since it may hold anything.
_PAIR = re.compile(
    r"(?P<name>[A-Za-z][\w-]{0,60})(?P<between>[\"']?[ \t]{0,8}[:=][ \t]{0,8})"
    r"(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'][^\n]*)"
)


def strike_out(command: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """`command` without what looks like a secret, and whether there was any."""
    kept: list[str] = []
    value_is_secret = False
    for each in command:
        option, equals, value = each.partition("=")
        if value_is_secret or _SECRET_VALUE.search(each):
            kept.append(_STRUCK)
        elif equals and (_SECRET_NAME.search(option) or _SECRET_VALUE.search(value)):
            kept.append(f"{option}={_STRUCK}")
        else:
            kept.append(each)
        value_is_secret = not equals and each.startswith("-") and bool(_SECRET_NAME.search(each))
    return tuple(kept), tuple(kept) != tuple(command)


def strike_out_text(text: str) -> str:
    """The same for text of any kind, line by line."""
    return _PAIR.sub(_pair, _IN_TEXT.sub(_known, text))


def _known(match: re.Match[str]) -> str:
    return f"{match['scheme'] or match['bearer'] or ''}{_STRUCK}"


def _pair(match: re.Match[str]) -> str:
    if _SECRET_NAME.search(match["name"]) and match["value"] not in ("null", "~", '""', "''"):
        return f"{match['name']}{match['between']}{_STRUCK}"
    if match["value"][0] in "\"'":
        return match[0]
    return match[0][: match.start("value") - match.start()] + _PAIR.sub(_pair, match["value"])
