"""Faults planted from outside into the programs under test: PYTHONPATH=tests/support/faults SMOKE_FAULT=NAME.

Each changes one function of one module as soon as that module is imported; the product knows nothing of it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time


class _Afterwards:
    """Finds one module, and changes it once it is there."""

    def __init__(self, module, change):
        self.module, self.change = module, change

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = exec_module
        return spec


def loop_over_positions(module):
    """The M7C case: right, and each position by itself, with a read from the device in the loop."""
    import torch

    right = module.NSAAttention.select

    def select(self, q_BHSK, k_BGNK, compressed, selection):
        mask = right(self, q_BHSK, k_BGNK, compressed, selection)
        size = self.model.nsa.select_block
        for row_SS in mask[:, 0]:
            for row_S in row_SS:
                for head in range(self.heads):
                    blocks = torch.unique(row_S.nonzero().flatten() // size).tolist()
                    keys = torch.cat([torch.arange(block * size, (block + 1) * size) for block in blocks])
                    (q_BHSK[0, head, 0] * keys[:1]).softmax(dim=-1).max().item()
        return mask

    module.NSAAttention.select = select


def constant_rate(module):
    """Warm-up and cosine "mended" away."""
    module.lr = lambda step, *, peak, warmup, total, floor: peak


def forgets_its_place(module):
    """Resumes with weights and optimizer, and begins the data anew."""
    right = module.open_stream

    def open_stream(*arguments, cursor=None, **named):
        return right(*arguments, **named)

    module.open_stream = open_stream


def second_rank_sleeps(module):
    """Rank 1 never comes to the third step."""
    right = module.Optimization.step

    def step(self, number, *arguments, **named):
        if number == 3 and os.environ.get("RANK") == "1":
            time.sleep(600)
        return right(self, number, *arguments, **named)

    module.Optimization.step = step


def notices_nothing(module):
    """A harness that finds nothing suspicious."""
    module.Detector.observe = lambda *_: None


def truncating_tokenizer(module):
    """The case's "fix" for a warning: nothing longer than 1023 leaves."""
    right = module.ByteTokenizer.encode
    module.ByteTokenizer.encode = lambda self, text: right(self, text)[:1023]


def warning_tokenizer(module):
    """As transformers' do, once, where nobody gave them a model_max_length."""
    import logging

    right = module.ByteTokenizer.encode

    def encode(self, text):
        tokens = right(self, text)
        if len(tokens) > 1024:
            said = (
                f"Token indices sequence length is longer than the specified maximum ({len(tokens)} > 1024)"
            )
            logging.getLogger("transformers.tokenization_utils_base").warning(said)
        return tokens

    module.ByteTokenizer.encode = encode


class _NotInstalled:
    """Packages that are not there."""

    def __init__(self, *names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


FAULTS = {
    "loop-over-positions": ("nsa.attention", loop_over_positions),
    "truncating-tokenizer": ("nsa.tokenizer", truncating_tokenizer),
    "warning-tokenizer": ("nsa.tokenizer", warning_tokenizer),
    "constant-rate": ("nsa.schedule", constant_rate),
    "forgets-its-place": ("nsa.session", forgets_its_place),
    "second-rank-sleeps": ("nsa.optimization", second_rank_sleeps),
    "notices-nothing": ("harness.detect", notices_nothing),
}

if os.environ.get("SMOKE_FAULT") == "bare-image":
    sys.meta_path.insert(0, _NotInstalled("pydantic", "pyarrow", "datasets"))
elif os.environ.get("SMOKE_FAULT"):
    sys.meta_path.insert(0, _Afterwards(*FAULTS[os.environ["SMOKE_FAULT"]]))
