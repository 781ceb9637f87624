"""Hugging Face's Trainer on a GPT-2 of 20k parameters and made-up text: a trainer that never heard of us."""

from __future__ import annotations

import os
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


class Text(torch.utils.data.Dataset):
    """The same few tokens over and over: soon known."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.arange(index, index + 16) % 7
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    out = os.path.join(os.environ["HARNESS_RUN_DIR"], "hf")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=16, n_embd=32, n_layer=1, n_head=2))
    arguments = TrainingArguments(
        output_dir=out,
        max_steps=int(sys.argv[1]),
        per_device_train_batch_size=8,
        learning_rate=float(sys.argv[2]),
        lr_scheduler_type="cosine",
        warmup_steps=5,
        logging_steps=1,
        save_steps=int(sys.argv[1]),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=Text()).train()


main()
