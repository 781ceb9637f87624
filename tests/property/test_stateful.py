"""Where there is state: the data cursor, and train, checkpoint, kill, resume, in any order."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.support import needs, tiny_run
from tests.support.examples import examples
from tests.support.wait import wait_for

for name in ("numpy", "datasets", "pydantic", "torch"):
    needs.require(name)

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nsa.config import Config
from nsa.data import open_stream
from nsa.tokenizer import ByteTokenizer

SEQUENCE = 24
FAR = 60  # batches that are known beforehand


class DataCursor(RuleBasedStateMachine):
    """A stream that is read, left, and opened again at any place that it ever named."""

    @initialize(seed=st.integers(0, 3), micro_batch=st.integers(1, 3), truncate=st.booleans())
    def open_it(self, seed, micro_batch, truncate):
        self.folder = Path(tempfile.mkdtemp(prefix="nsa-cursor-"))
        made = random.Random(seed)
        lengths = [0, 1, SEQUENCE - 1, SEQUENCE, SEQUENCE + 1, 10 * SEQUENCE]
        for shard in range(3):
            texts = [f"{shard}:{number}" * made.choice([*lengths, 7]) for number in range(20)]
            lines = (json.dumps({"text": text, "id": str(at)}) for at, text in enumerate(texts))
            (self.folder / f"{shard}.jsonl").write_text("\n".join(lines) + "\n")
        self.config = Config.model_validate(
            {
                "name": "t",
                "model": {"dim": 8, "layers": 1, "heads": 1, "kv_groups": 1},
                "tokenizer": {"kind": "byte"},
                "data": {
                    "source": "files",
                    "paths": [str(self.folder / "*.jsonl")],
                    "sequence_length": SEQUENCE,
                    "truncate": truncate,
                },
                "train": {"steps": 1, "micro_batch": micro_batch},
                "schedule": {"peak": 0.1, "warmup_steps": 0},
            }
        )
        with self._opened() as stream:
            self.expected = [self._next(stream) for _ in range(FAR)]
        self.stream = self._opened()
        self.place = 0
        self.saved = {0: None}

    def _opened(self, cursor=None):
        return open_stream(self.config, ByteTokenizer(), rank=0, world_size=1, cursor=cursor)

    @staticmethod
    def _next(stream):
        batch = next(stream)
        return batch.tokens.tolist(), batch.document_ids.tolist(), batch.documents

    @rule(count=st.integers(1, 7))
    def read(self, count):
        for _ in range(min(count, FAR - self.place)):
            assert self._next(self.stream) == self.expected[self.place]
            self.place += 1

    @rule()
    def save(self):
        # Through JSON, as a checkpoint does it.
        self.saved[self.place] = json.loads(json.dumps(self.stream.cursor()))

    @rule(data=st.data())
    def leave_and_resume(self, data):
        self.stream.close()
        self.place = data.draw(st.sampled_from(sorted(self.saved)))
        self.stream = self._opened(self.saved[self.place])

    def teardown(self):
        if hasattr(self, "stream"):
            self.stream.close()
            shutil.rmtree(self.folder)


TestDataCursor = DataCursor.TestCase
TestDataCursor.settings = settings(max_examples=examples(8), stateful_step_count=12, deadline=None)

STEPS = 14


class Training(RuleBasedStateMachine):
    """A real trainer, killed, asked to stop and started again, until it is done."""

    whole: dict[int, set[str]]
    config: Path

    @initialize()
    def begin(self):
        self.out = Path(tempfile.mkdtemp(prefix="nsa-train-", dir=self.config.parent))
        self.process = None

    def _start(self):
        self.process = tiny_run.Forked("train", self.config, "--out", self.out)

    def _end(self, number):
        if self.process is not None:
            self.process.send_signal(number)
            self.process.communicate(60)
            self.process = None

    @precondition(lambda self: self.process is None)
    @rule()
    def start(self):
        self._start()

    @precondition(lambda self: self.process is not None)
    @rule(more=st.integers(0, 5), number=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def end_after_some_steps(self, more, number):
        wanted = min(STEPS, tiny_run.last_step(self.out) + more)
        wait_for(
            lambda: tiny_run.last_step(self.out) >= wanted or self.process.poll() is not None,
            60,
            f"step {wanted}",
            0.005,
        )
        self._end(number)

    @rule()
    def damage_the_newest_checkpoint(self):
        """As a disk does: it is set aside, and the one before it is taken."""
        self._end(signal.SIGKILL)
        steps = tiny_run.checkpoint_steps(self.out)
        if len(steps) > 1:
            part = max((self.out / "checkpoints" / f"step-{steps[-1]:08d}").glob("*.pt"), default=None)
            if part is not None:
                part.write_bytes(part.read_bytes()[:-7])

    @invariant()
    def every_loss_is_that_of_the_uninterrupted_run(self):
        if hasattr(self, "out"):
            for step, seen in tiny_run.losses(self.out).items():
                assert seen == self.whole[step], step

    def teardown(self):
        if not hasattr(self, "out"):
            return
        self._end(signal.SIGKILL)
        self._start()
        _, err = self.process.communicate(60)
        assert self.process.returncode == 0, err
        assert tiny_run.losses(self.out) == self.whole
        shutil.rmtree(self.out)


@pytest.mark.timeout(400)
def test_killed_and_resumed_in_any_order_the_losses_are_those_of_one_run(tmp_path):
    from hypothesis.stateful import run_state_machine_as_test

    Training.config = tiny_run.config(tmp_path, train={"steps": STEPS}, checkpoint={"every": 2, "keep": 3})
    done = tiny_run.Forked("train", Training.config, "--out", tmp_path / "whole")
    _, err = done.communicate(60)
    assert done.returncode == 0, err
    Training.whole = tiny_run.losses(tmp_path / "whole")
    assert sorted(Training.whole) == list(range(1, STEPS + 1))
    run_state_machine_as_test(
        Training,
        settings=settings(
            max_examples=examples(4),
            stateful_step_count=8,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
