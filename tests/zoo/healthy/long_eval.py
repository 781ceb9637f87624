"""An evaluation after the epoch takes as long as the epoch did: no step, no loss, and all is well."""

TRUTH = {
    "state": ["healthy", "slow"],
    "cause": ["healthy", "slow-progress"],
    "needs": ["torch"],
    "settle_seconds": 0.3,
}


def evaluate(model, batches):
    import torch

    model.eval()
    total = torch.zeros(())
    with torch.no_grad():
        for batch in batches:
            total += model(batch).square().mean()
    return total


def main():
    import torch
    from torch.utils.data import DataLoader

    layers = [torch.nn.Linear(512, 512) for _ in range(8)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for step in range(3):
        model(torch.randn(8, 512)).sum().backward()
        optimizer.step()
    print("READY", flush=True)
    evaluate(model, DataLoader(torch.randn(1, 512).expand(1_000_000, 512), batch_size=256))


main()
