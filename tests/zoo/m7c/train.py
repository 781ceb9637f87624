"""A training as the M7C run was: no fault of its own, but an attention that goes over positions in Python."""

import json
import os
import sys

import torch
from nsa_attention import SelectedAttention
from torch import nn
from torch.nn import functional


class Model(nn.Module):
    def __init__(self, vocabulary, dim, layers, heads, groups, block, top):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(SelectedAttention(dim, heads, groups, block, top) for _ in range(layers))
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, tokens):
        x = self.embedding(tokens)
        depth = len(self.layers)
        for layer in range(depth):
            x = x + self.layers[layer](x)
        return self.head(x)


def learning_rate(step, config):
    return config["lr"] * min(1.0, step / config["warmup"])


def train(model, data, config):
    steps, accumulation = config["steps"], config["accumulation"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    for step in range(1, steps + 1):
        lr = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for micro in range(accumulation):
            tokens = next(data)
            logits = model(tokens[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            (loss / accumulation).backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} loss {loss.item():.3f} lr {lr:g}")


def batches(config):
    generator = torch.Generator().manual_seed(0)
    if "READY_FD" in os.environ:
        os.write(int(os.environ["READY_FD"]), b"READY\n")
    while True:
        yield torch.randint(
            config["vocabulary"], (config["batch"], config["sequence"] + 1), generator=generator
        )


def watched(config):
    """Under `harness run` it tells where it is; under plain `python` it never heard of the harness."""
    if "HARNESS_RUN_DIR" in os.environ:
        from harness import emit

        emit.open(
            total_steps=config["steps"],
            schedule={
                "kind": "cosine",
                "peak": config["lr"],
                "warmup": config["warmup"],
                "total": config["steps"],
                "floor": 0.1,
            },
        )
        emit.stage("train")


def main():
    with open(sys.argv[1]) as file:
        config = json.load(file)
    torch.manual_seed(0)
    shape = ("vocabulary", "dim", "layers", "heads", "groups", "block", "top")
    model = Model(*(config[name] for name in shape))
    print(f"[train] dataset=local tokens model={sum(each.numel() for each in model.parameters())} parameters")
    watched(config)
    train(model, batches(config), config)


main()
