"""Found first on PYTHONPATH under `harness run`: runs the user's own sitecustomize, then arms `harness.auto`.

This folder leaves sys.path at once. PYTHONPATH itself stays, so that whatever this process starts has it too.
"""

import os
import sys

# What an interpreter has loaded anyway: pathlib would cost more than all of this.
# ruff: noqa: PTH100, PTH118, PTH120

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(os.path.dirname(_HERE))


def _arm() -> None:
    if os.environ.get("HARNESS_AUTO") != "on" or not os.environ.get("HARNESS_RUN_DIR"):
        return
    try:
        from _frozen_importlib_external import SourceFileLoader

        names: dict[str, Any] = {"__name__": "_harness_arming"}
        path = os.path.join(_PACKAGE, "auto", "arming.py")
        code: Any = SourceFileLoader("_harness_arming", path).get_code("_harness_arming")
        exec(code, names)  # noqa: S102 (our own file)
        names["arm"](_PACKAGE)
    except Exception as error:  # noqa: BLE001 (never into the trainer)
        os.write(
            2, f"harness: not instrumented: {type(error).__name__}: {error}\n".encode("utf-8", "replace")
        )


sys.path[:] = [_each for _each in sys.path if os.path.abspath(_each or os.curdir) != _HERE]
_ours = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize as _theirs  # type: ignore[import-not-found]  # noqa: F401 (the user's, if any)
except ImportError as _error:
    if _error.name != "sitecustomize":
        raise
    if _ours is not None:  # the import system asks for it when this file is done
        sys.modules["sitecustomize"] = _ours
finally:
    _arm()
