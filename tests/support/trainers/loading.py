"""Saves and loads a tokenizer, a model and a dataset, all from files of its own; prints what each line does.

python loading.py FOLDER
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import datasets
import safetensors.torch
import torch
import torch.distributed.checkpoint
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)


def main():
    here = Path(sys.argv[1])
    here.mkdir()
    (here / "data.jsonl").write_text(json.dumps({"text": "a b"}) + "\n")
    words = Tokenizer(models.WordLevel({"<e>": 0, "a": 1, "b": 2}, unk_token="<e>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>")
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 8, "n_positions": 8}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    value = {"x": torch.ones(2)}
    tokenizer.save_pretrained(here / "model")
    for told, call in (
        ("checkpoint", lambda: model.save_pretrained(here / "model")),
        ("tokenizer", lambda: AutoTokenizer.from_pretrained(here / "model")),
        ("tokenizer", lambda: PreTrainedTokenizerFast.from_pretrained(here / "model")),
        ("model", lambda: AutoModelForCausalLM.from_pretrained(here / "model")),
        ("model", lambda: GPT2LMHeadModel.from_pretrained(here / "model")),
        ("dataset", lambda: datasets.load_dataset("json", data_files=str(here / "data.jsonl"))),
        ("checkpoint", lambda: safetensors.torch.save_file(value, here / "x.safetensors")),
        ("checkpoint", lambda: torch.distributed.checkpoint.save(value, checkpoint_id=str(here / "x"))),
        ("checkpoint", lambda: torch.save(value, here / "x.pt")),
        ("", lambda: torch.save(value, io.BytesIO())),  # a message, no checkpoint
    ):
        call()
        print(f"told {told}", flush=True)


if __name__ == "__main__":
    main()
