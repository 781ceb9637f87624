"""What is installed: a light base, torch as a range, everything pinned, in every environment."""

from __future__ import annotations

import configparser
import re
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.env import REPOSITORY

_PROJECT = (REPOSITORY / "pyproject.toml").read_text()
_PINS = {
    canonicalize_name(name)
    for name in re.findall(
        r"^([A-Za-z0-9._-]+)==", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE
    )
}


def required(key: str) -> list[Requirement]:
    """The list of that name; by its text, for tomllib is not in Python 3.10."""
    found = re.search(rf"^{key} = \[(.*?)\]$", _PROJECT, re.MULTILINE | re.DOTALL)
    assert found is not None, key
    return [Requirement(text) for text in re.findall(r'"([^"]+)"', found[1])]


EXTRAS = ("train", "tensorboard", "properties", "bench", "dev")


def test_the_base_is_light_and_torch_is_a_range():
    assert {each.name for each in required("dependencies")} == {
        *("nvidia-ml-py", "prometheus-client", "psutil", "py-spy", "pyyaml", "rich")
    }
    (torch,) = (each for each in required("train") if each.name == "torch")
    assert all(torch.specifier.contains(version) for version in ("2.11.0", "2.12.1", "2.13.0"))
    assert 'requires-python = ">=3.10"' in _PROJECT


def test_everything_that_is_asked_for_is_pinned_and_so_is_what_that_brings():
    left = [each.name for key in ("dependencies", *EXTRAS) for each in required(key)]
    seen: set[str] = set()
    while left:
        name = canonicalize_name(left.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            asked = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue  # not in this environment
        left += [each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    assert len(seen) > 10
    assert seen <= _PINS | {"pip", "setuptools", "wheel"}, sorted(seen - _PINS)


def test_every_environment_of_tox_and_every_line_of_the_readme_is_constrained():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(REPOSITORY / "tox.ini")
    environments = [name for name in tox.sections() if name.startswith("testenv")]
    assert len(environments) > 4
    for name in environments:
        variables = tox[name].get("set_env", "{[testenv]set_env}")
        assert (
            "PIP_CONSTRAINT = {toxinidir}/constraints.txt" in variables or "{[testenv]set_env}" in variables
        )
    installs = re.findall(r"pip install[^`&\n]*", (REPOSITORY / "README.md").read_text())
    assert len(installs) >= 3
    assert all("-c constraints.txt" in line for line in installs)
