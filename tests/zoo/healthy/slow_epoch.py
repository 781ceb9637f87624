"""Trains with torch, slowly; no output for long."""

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress"],
    "needs": ["torch"],
    "settle_seconds": 1.0,
}


def train(model, optimizer, batches):
    import torch

    for batch in range(batches):
        loss = model(torch.ones(256, 256)).square().mean()
        loss.backward()
        optimizer.step()


def main():
    import torch

    torch.set_num_threads(1)
    model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(8)])
    print("READY", flush=True)
    train(model, torch.optim.AdamW(model.parameters()), 10**9)


main()
