"""TRL's SFTTrainer on a model of a few numbers, with a tokenizer made in place; prints, as JSON, its log.

python trl_sft.py [--stall-at STEP]
"""

from __future__ import annotations

import json
import sys
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

WORDS = ["a", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "away"]


BATCH, ACCUMULATED = 4, 2


class Collator:
    """Its own, which stops after so many batches."""

    def __init__(self, collate, stall_at):
        self.collate, self.stall_at, self.batches = collate, stall_at, 0

    def __call__(self, examples):
        if self.batches >= self.stall_at * ACCUMULATED:
            time.sleep(600)  # the planted line
        self.batches += 1
        return self.collate(examples)


class Print(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            said = [state.global_step, logs["loss"], logs["learning_rate"], logs["grad_norm"]]
            print(json.dumps(said), flush=True)


def main():
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<end>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32}
    config = GPT2Config(**size, vocab_size=len(vocabulary), eos_token_id=1, bos_token_id=1)
    texts = [" ".join((WORDS * 3)[at % 12 : at % 12 + 4 + at % 8]) for at in range(48)]
    arguments = SFTConfig(
        "out",
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATED,
        max_steps=6,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
    )
    trainer = SFTTrainer(
        GPT2LMHeadModel(config),
        arguments,
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=wrapped,
        callbacks=[Print()],
    )
    if "--stall-at" in sys.argv:
        trainer.data_collator = Collator(trainer.data_collator, int(sys.argv[-1]))
    trainer.train()
    # torch may abort a process that ends within its group, or hang where DDP outlives it (plain.py).
    accelerator = trainer.accelerator
    del trainer
    accelerator.free_memory()
    accelerator.end_training()


if __name__ == "__main__":
    main()
