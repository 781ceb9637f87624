"""A module waits, while it is imported, for a thread that imports it as well."""

import sys
from pathlib import Path

TRUTH = {"state": "hung", "cause": "lock-deadlock", "settle_seconds": 0.6, "facts": ["plugin.py"]}

Path("plugin.py").write_text(
    "import threading\n"
    "def prepare():\n"
    "    import tables\n"
    "thread = threading.Thread(target=prepare, name='prepare')\n"
    "thread.start()\n"
    "thread.join()\n"
)
Path("tables.py").write_text("import plugin\n")


def load():
    import plugin  # noqa: F401


sys.path.insert(0, str(Path.cwd()))
print("READY", flush=True)
load()
