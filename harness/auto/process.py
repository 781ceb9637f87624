"""What this process is: the trainer, a launcher of trainers, or somebody's helper. By its command line.

A launcher imports torch and never trains; a helper (a DataLoader worker that was spawned, a resource tracker,
a compile worker) is part of a trainer that has the record. Whoever is not known here and trains nothing holds
a provisional record at most, which gives way to the process that trains (`session`).
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal, TypeAlias

    Role: TypeAlias = Literal["trainer", "launcher", "helper"]

_LAUNCHER_MODULES = (
    "torch.distributed.run", "torch.distributed.launch", "accelerate.commands.", "torch.distributed.elastic.",
    "deepspeed.launcher.", "torchx.", "pip", "tensorboard.",
)  # fmt: skip
_LAUNCHER_SCRIPTS = frozenset(
    (
        "torchrun",
        "torchx",
        "accelerate",
        "accelerate-launch",
        "deepspeed",
        "ds",
        "mpirun",
        "pip",
        "tensorboard",
    )
)
_HELPER_MODULES = ("torch._inductor.", "multiprocessing.", "joblib.externals.loky.", "torch.utils.data.")
_WITH_VALUE = "WXQ"  # options of the interpreter that may be followed by their value


def role(argv: "Sequence[str] | None" = None) -> "Role":
    """The role of the process with this command line, as `sys.orig_argv` has it: this one's by default."""
    rest = sys.orig_argv if argv is None else argv
    kind, name = target(rest)
    if "--multiprocessing-fork" in rest or (kind == "-c" and "multiprocessing" in name):
        return "helper"
    if kind == "-m":
        return _of_module(name)
    if kind == "script":
        last = name.rpartition("/")[2]
        if last in _LAUNCHER_SCRIPTS or name.endswith(("/torch/distributed/run.py", "/accelerate_cli.py")):
            return "launcher"
        if "/torch/_inductor/" in name:
            return "helper"
    return "trainer"


def _of_module(name: str) -> "Role":
    if any(_matches(name, each) for each in _HELPER_MODULES):
        return "helper"
    return "launcher" if any(_matches(name, each) for each in _LAUNCHER_MODULES) else "trainer"


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern) if pattern.endswith(".") else name == pattern


def target(argv: "Sequence[str]") -> tuple[str, str]:
    """What an interpreter was told to run: ("-c", code), ("-m", module), ("script", path) or ("", "")."""
    return _parse(argv)[:2]


def options(argv: "Sequence[str]") -> str:
    """The interpreter's own one-letter options, in a row: "Iu" of `python -I -u train.py`."""
    return _parse(argv)[2]


def _parse(argv: "Sequence[str]") -> tuple[str, str, str]:
    letters = ""
    index = 1
    while index < len(argv):
        word = argv[index]
        if word == "-" or not word.startswith("-"):
            return "script", word, letters
        if word.startswith("--"):
            index += 2 if word == "--check-hash-based-pycs" else 1
            continue
        for place, letter in enumerate(word[1:], 2):
            if letter in "cm":
                value = word[place:] or (argv[index + 1] if index + 1 < len(argv) else "")
                return f"-{letter}", value, letters
            letters += letter
            if letter in _WITH_VALUE:
                index += not word[place:]
                break
        index += 1
    return "", "", letters
