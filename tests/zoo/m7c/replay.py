"""The M7C run again: its folder as it was found, and then the training itself, in this very process.

    python replay.py [FOLDER]  lays out FOLDER; there: python train.py configs/m7c.json > training.log 2>&1
    python replay.py --lay-out FOLDER

In the folder stands what misled people: TensorBoard events of an older run, and an older log with the
tokenizer's warning. What goes on: attention that selects in a Python loop over positions; stdout is a file,
so that Python holds back what is printed; step 1 of a warm-up of 2,000.
"""

import os
import shutil
import sys
import time
from pathlib import Path

TRUTH = {
    "state": "slow",
    "cause": "slow-progress",
    "blame": ["select"],
    "facts": [
        "a second",
        "one round of step takes at least",
        "training.log is empty because stdout is a file",
        "LR 1e-7 is step 1 of a 2,000-step warm-up to 2e-4",
        "TensorBoard shows an older run",
        "harmless where documents are packed",
    ],
    "needs": ["torch", "tensorboard"],
    "settle_seconds": 3.0,
    "variants": False,
    "keeps": ["artifacts", "log"],
}

HERE = Path(__file__).resolve().parent
COMMAND = ("train.py", "configs/m7c.json")
OLD_SECONDS = 3.7 * 3600
WARNING = (
    "Token indices sequence length is longer than the specified maximum sequence length for this model "
    "(1249 > 1024). Running this sequence through the model will result in indexing errors"
)
OLD_LOG = f"[train] dataset=fineweb-edu tokenizer=gpt2\n{WARNING}\nstep 200 loss 0.120 lr 2e-05\n"


def lay_out(folder):
    """What stood in the folder of the run."""
    for name in ("train.py", "nsa_attention.py", "configs/m7c.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / name, folder / name)
    (folder / "training-old.log").write_text(OLD_LOG)
    events(folder / "artifacts" / "tb")
    old = time.time() - OLD_SECONDS
    for path in (folder / "training-old.log", *(folder / "artifacts" / "tb").iterdir()):
        os.utime(path, (old, old))


def events(folder):
    """Step 200, loss 0.12: of an older run."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(folder))
    for step in range(10, 201, 10):
        value = Summary(value=[Summary.Value(tag="loss", simple_value=24.0 / step)])
        writer.add_event(Event(wall_time=time.time() - OLD_SECONDS, step=step, summary=value))
    writer.close()


def main():
    folder = Path(sys.argv[-1]) if sys.argv[1:] else Path.cwd()
    lay_out(folder)
    if "--lay-out" in sys.argv:
        return
    os.chdir(folder)
    # What says READY keeps the stdout that this program was started with; the training gets a file, as then.
    ready = os.dup(1)
    os.set_inheritable(ready, True)
    log = os.open("training.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["READY_FD"] = str(ready)
    os.execv(sys.executable, ["python", *COMMAND])


if __name__ == "__main__":
    main()
