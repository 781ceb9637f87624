"""Runs something when a module has been imported, without a trace on the module or its loader.

The spec is found by whoever would have found it; only the `exec_module` of that one loader is wrapped, for
that one call. Modules whose import takes a while are a stage of their own meanwhile.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType
    from typing import Any

    from harness.auto.recorder import Recorder

    Hook = Callable[[ModuleType], None]

# Top-level packages whose import is the stage "import".
HEAVY = frozenset(
    ("torch", "transformers", "datasets", "accelerate", "lightning", "pytorch_lightning", "trl", "peft")
)


class Finder:
    """Stands first in sys.meta_path and finds nothing itself."""

    def __init__(self, hooks: "Mapping[str, Hook]", recorder: "Recorder") -> None:
        self._hooks = hooks
        self._recorder = recorder
        self._busy: set[str] = set()

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: "Any" = None) -> "Any":
        """The spec that the others find, with its loader's `exec_module` wrapped where the name is known."""
        if (name not in self._hooks and name not in HEAVY) or name in self._busy:
            return None
        self._busy.add(name)
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    self._wrap(name, spec.loader)
                    return spec
        finally:
            self._busy.discard(name)
        return None

    def catch_up(self) -> None:
        """Run the hooks of what had been imported before."""
        for name, hook in self._hooks.items():
            module = sys.modules.get(name)
            if module is not None:
                self._run(hook, module)

    def _wrap(self, name: str, loader: "Any") -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None or isinstance(loader, type):
            return
        hook = self._hooks.get(name)

        def exec_module(module: "ModuleType") -> None:
            vars(loader).pop("exec_module", None)
            scope = self._recorder.enter("import") if name in HEAVY else None
            try:
                execute(module)
            finally:
                self._recorder.leave(scope)
            if hook is not None:
                self._run(hook, module)

        try:
            loader.exec_module = exec_module
        except AttributeError:  # no room for it: this module goes unhooked
            return

    def _run(self, hook: "Hook", module: "ModuleType") -> None:
        try:
            hook(module)
        except Exception as error:  # noqa: BLE001 (never into the trainer)
            self._recorder.fail(error)
