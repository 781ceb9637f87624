"""Hugging Face's Trainer on a model of a few numbers; prints, as JSON, what it logs of each step.

python hf.py [--callback] [--resume] [--stall-at STEP]
"""

from __future__ import annotations

import json
import sys
import time

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

BATCH, ACCUMULATED = 4, 2


class Texts(Dataset):
    def __init__(self, texts, stall_at):
        self.texts, self.given, self.stall_at = texts, 0, stall_at

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        if self.stall_at is not None and self.given >= self.stall_at * BATCH * ACCUMULATED:
            time.sleep(600)  # the planted line
        self.given += 1
        return self.texts[index]


class Print(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            said = [state.global_step, logs["loss"], logs["learning_rate"], logs["grad_norm"]]
            print(json.dumps(said), flush=True)


def main():
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 64, "n_positions": 32}
    config = GPT2Config(**size, eos_token_id=0, bos_token_id=0)
    ids = torch.randint(0, 64, (64, 16))
    mask = torch.ones(16, dtype=torch.long)
    mask[12:] = 0
    data = [{"input_ids": each, "labels": each, "attention_mask": mask} for each in ids]
    stall_at = int(sys.argv[sys.argv.index("--stall-at") + 1]) if "--stall-at" in sys.argv else None
    callbacks = [Print()]
    if "--callback" in sys.argv:
        from harness.integrations.transformers import HarnessCallback

        callbacks.append(HarnessCallback())
    arguments = TrainingArguments(
        "out",
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATED,
        max_steps=12,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=5,
        save_steps=8,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        GPT2LMHeadModel(config),
        arguments,
        train_dataset=Texts(data, stall_at),
        eval_dataset=data[:8],
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint="--resume" in sys.argv or None)
    # torch may abort a process that ends within its group, or hang where DDP outlives it (plain.py).
    accelerator = trainer.accelerator
    del trainer
    accelerator.free_memory()
    accelerator.end_training()


if __name__ == "__main__":
    main()
