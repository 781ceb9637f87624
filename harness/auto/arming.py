"""Waits for torch or a framework to be imported, then loads the hooks; also under which names.

The trainer's environment may hold no `harness`, ours, another version of it, or somebody else's package of
that name. So the hooks' modules are loaded from this very folder as `_harness.…`, and their own imports of
`harness.…` are led there. Where the trainer can import a `harness` whose record has the same layout, its
`harness.emit` is used, so that a trainer which calls it and the hooks speak through one state.

Runs in every Python process under `harness run`, so it is small. Not here: what is hooked (`session`).
"""

# pathlib and contextlib would cost more than all of this:
# ruff: noqa: PTH112, PTH121, PTH123, SIM105

import builtins
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType
    from typing import Any

# The first of these to be imported loads the hooks.
FIRST = frozenset(
    ("torch", "transformers", "datasets", "accelerate", "lightning", "pytorch_lightning", "safetensors")
)
OLDEST = (3, 10)
_MARK = "_harness"  # in sys.modules: armed already, by this harness or by one around it
_EMIT = (
    "harness.emit", "harness.wire", "harness.place", "harness.ranks", "harness.record", "harness.values",
)  # fmt: skip


def arm(package: str) -> None:
    """Wait for the first of `FIRST`; `package` is the harness's folder."""
    if _MARK in sys.modules or any(type(each).__name__ == "_Waiting" for each in sys.meta_path):
        return
    waiting = _Waiting(package)
    sys.meta_path.insert(0, waiting)
    if not FIRST.isdisjoint(sys.modules):  # the user's own sitecustomize was there first
        waiting.begin()


class _Waiting:
    """A finder that finds nothing."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: "Any" = None) -> "Any":
        """Load the hooks when the time has come, and let them look at this import already."""
        if name not in FIRST:
            return None
        finder = self.begin()
        return None if finder is None else finder.find_spec(name, path, target)

    def begin(self) -> "Any":
        """Load the hooks; their finder, or None where there is nothing to hook."""
        try:
            sys.meta_path.remove(self)
            if sys.version_info < OLDEST:
                ours, needed = (".".join(map(str, each[:2])) for each in (sys.version_info, OLDEST))
                say(f"not instrumented: Python {ours} is older than {needed}; its log is watched")
                return None
            return Modules(self._package).load("harness.auto.session").begin()
        except Exception as error:  # noqa: BLE001 (never into the trainer)
            say(f"not instrumented: {type(error).__name__}: {error}")
            return None


class Modules:
    """`harness.…` for the hooks' own code, whatever the trainer's environment holds."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._builtins = {**vars(builtins), "__import__": self._import}
        self._shared = self._is_ours(_folder_of_theirs())
        self._emit: tuple[str, ...] = _EMIT if self._shared else ()

    def load(self, name: str) -> "ModuleType":
        """The module `name`: the trainer's own copy where that is shared, else one of ours."""
        alias = f"_{name}"
        module = sys.modules.get(alias)
        if module is not None:
            return module
        above, _, last = name.rpartition(".")
        package = self.load(above) if above else None
        if name in self._emit:
            __import__(name)
            module = sys.modules[name]
        else:
            module = self._load_ours(name, alias)
        if package is not None:
            setattr(package, last, module)
        return module

    def _load_ours(self, name: str, alias: str) -> "ModuleType":
        from _frozen_importlib import ModuleSpec, module_from_spec
        from _frozen_importlib_external import SourceFileLoader

        path = self._package + name[len("harness") :].replace(".", "/")
        is_package = os.path.isdir(path)
        path = f"{path}/__init__.py" if is_package else f"{path}.py"
        loader = SourceFileLoader(alias, path)
        spec = ModuleSpec(alias, loader, origin=path, is_package=is_package)
        spec.has_location = True
        module: ModuleType = module_from_spec(spec)
        module.__dict__["__builtins__"] = self._builtins
        sys.modules[alias] = module
        try:
            loader.exec_module(module)
        except BaseException:
            sys.modules.pop(alias, None)
            raise
        return module

    def _import(
        self,
        name: str,
        globals: "Mapping[str, object] | None" = None,  # noqa: A002 (as __import__ has it)
        locals: "Mapping[str, object] | None" = None,  # noqa: A002 (the same)
        fromlist: "Sequence[str]" = (),
        level: int = 0,
    ) -> "ModuleType":
        """`__import__` as the hooks' modules see it."""
        if level or not (name == "harness" or name.startswith("harness.")):
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = self.load(name)
        for each in fromlist or ():
            if not hasattr(module, each):
                self.load(f"{name}.{each}")
        return module

    def _is_ours(self, folder: "str | None") -> bool:
        """Whether the package in `folder` has the same layout and knows us; it is read, not imported."""
        if folder is None:
            return False
        if _same_file(folder, self._package):
            return True
        ours = _line(f"{self._package}/wire.py", "VERSION = ")
        return (
            bool(ours)
            and _line(f"{folder}/wire.py", "VERSION = ") == ours
            and _line(f"{folder}/wire.py", "MAGIC = ") == _line(f"{self._package}/wire.py", "MAGIC = ")
            and bool(_line(f"{folder}/emit.py", "def _mark("))
        )


def _folder_of_theirs() -> "str | None":
    """Where the package lies that the trainer gets by `import harness`."""
    module = sys.modules.get("harness")
    if module is not None:
        folders = getattr(module, "__path__", None)
    else:
        # One of old has no `find_spec` (six 1.15's, say): the import system passes over it as well.
        finds = [each.find_spec for each in sys.meta_path if hasattr(each, "find_spec")]
        spec = next(filter(None, (find("harness", None) for find in finds)), None)
        folders = None if spec is None else spec.submodule_search_locations
    return next(iter(folders), None) if folders else None


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _line(path: str, beginning: str) -> str:
    """The first line of a file that begins so; empty without one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return next((line for line in file if line.startswith(beginning)), "")
    except OSError:
        return ""


def say(line: str) -> None:
    """One line on stderr, which is the run's log."""
    try:
        os.write(2, f"harness: {line}\n".encode("utf-8", "replace"))
    except OSError:
        pass
