"""Lightning's manual optimization with two optimizers; prints, as JSON, what the first one did."""

from __future__ import annotations

import json

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = torch.nn.Linear(8, 1), torch.nn.Linear(8, 1)

    def training_step(self, batch, index):
        for optimizer, layer in zip(self.optimizers(), (self.first, self.second), strict=True):
            loss = layer(batch[0]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            step = self.trainer.global_step + 1  # it counts the steps of all optimizers
            norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            if layer is self.first:
                said = [step, loss.item(), optimizer.param_groups[0]["lr"], norm.item()]
                print(json.dumps(said), flush=True)
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.first.parameters(), lr=0.1), torch.optim.SGD(
            self.second.parameters(), lr=0.01
        )


def main():
    L.seed_everything(0)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(), DataLoader(TensorDataset(torch.randn(20, 8)), 4))


if __name__ == "__main__":
    main()
