"""`python -m harness.auto train.py`: the same hooks where PYTHONPATH is not read (`python -I`, `-E`, `-S`).

    python -I -m harness.auto train.py …        where the interpreter has the harness installed
    python -I …/harness/auto train.py …         where it has not
    … -m package.train …                        a module instead of a file

Then runs the trainer as `python` itself would. Outside `harness run` it does that alone.
"""

import os
import runpy
import sys

# ruff: noqa: PTH100, PTH109, PTH110, PTH118, PTH120 (as early as sitecustomize)

_HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> None:
    """Arm, and run what the arguments name."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.stderr.write(
            "usage: python -m harness.auto SCRIPT [ARGUMENT ...], or: -m MODULE [ARGUMENT ...]\n"
        )
        raise SystemExit(0 if sys.argv[1:] else 2)
    if sys.path and os.path.abspath(sys.path[0]) == _HERE:
        del sys.path[0]  # this folder, where it was started by its path
    _arm()
    alone = getattr(sys.flags, "safe_path", False) or sys.flags.isolated
    if sys.argv[1] == "-m" and len(sys.argv) > 2:
        del sys.argv[:2]
        if not alone:
            sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(sys.argv[0])  # type: ignore[attr-defined]  # noqa: SLF001 (what -m does)
        return
    del sys.argv[0]
    if not os.path.exists(sys.argv[0]):
        sys.stderr.write(f"harness.auto: can't open file {sys.argv[0]!r}: there is no such file\n")
        raise SystemExit(2)
    if not alone:
        sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _arm() -> None:
    if not os.environ.get("HARNESS_RUN_DIR") or os.environ.get("HARNESS_AUTO") == "off":
        return
    try:
        names = runpy.run_path(os.path.join(_HERE, "arming.py"), run_name="_harness_arming")
        names["arm"](os.path.dirname(_HERE))
    except Exception as error:  # noqa: BLE001 (never into the trainer)
        sys.stderr.write(f"harness: not instrumented: {type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main()
