"""Lightning's Trainer on a model of a few numbers; prints, as JSON, what it gives its loggers and callbacks.

python lightning_module.py [--stall-at STEP] [--devices N] [--accumulate N]
"""

from __future__ import annotations

import argparse
import json
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import DataLoader, Dataset

BATCH, STEPS = 4, 12


class Numbers(Dataset):
    def __init__(self, count, stall_at=None):
        self.count, self.stall_at = count, stall_at

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if self.stall_at is not None and index >= self.stall_at * BATCH:
            time.sleep(600)  # the planted line
        return torch.full((8,), index / 100), torch.ones(1)


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch, index):
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.layer(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.log("val_loss", torch.nn.functional.mse_loss(self.layer(x), y))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Losses(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.is_global_zero:
            print(json.dumps({"divided": outputs["loss"].item()}), flush=True)


class Print(Logger):
    name = version = "print"

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        print(json.dumps({"step": step, **metrics}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stall-at", type=int)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--accumulate", type=int, default=1)
    args = parser.parse_args()
    L.seed_everything(0)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=args.devices,
        max_steps=STEPS,
        accumulate_grad_batches=args.accumulate,
        gradient_clip_val=1.0,
        val_check_interval=8,
        limit_val_batches=2,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=Print(),
        callbacks=[LearningRateMonitor("step"), Losses()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = Numbers(STEPS * BATCH * args.devices * args.accumulate, args.stall_at)
    trainer.fit(Model(), DataLoader(data, BATCH), DataLoader(Numbers(8), BATCH))


if __name__ == "__main__":
    main()
