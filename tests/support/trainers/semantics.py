"""Every way to take a step, one after the other; prints, as JSON, the rows that each ought to have recorded.

A line per way: {"way": name, "rows": [[loss, [rates], norm], …]}; null is absent, a loss of null is unknown.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys

import torch

SIZE = 4


def made(kind=torch.optim.SGD, *, rate=0.1, **options):
    model = torch.nn.Linear(SIZE, 1)
    return model, kind(model.parameters(), lr=rate, **options)


def loss_of(model):
    return (model(torch.randn(3, SIZE)) ** 2).mean()


def rates(*optimizers):
    return [float(group["lr"]) for each in optimizers for group in each.param_groups]


def plain():
    model, optimizer = made()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        yield loss.item(), rates(optimizer), None
        optimizer.step()
        schedule.step()


def clipped():
    model, optimizer = made(torch.optim.Adam)
    for _ in range(2):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        yield loss.item(), rates(optimizer), norm.item()
        optimizer.step()


def clipped_in_parts():
    model, optimizer = made()
    loss = loss_of(model)
    loss.backward()
    for parameter in model.parameters():
        torch.nn.utils.clip_grad_norm_([parameter], 0.01)
    yield loss.item(), rates(optimizer), None  # no norm of all was ever computed
    optimizer.step()


def accumulated():
    model, optimizer = made()
    for _ in range(2):
        total = 0.0
        for _ in range(4):
            loss = loss_of(model) / 4
            loss.backward()
            total += loss.item()
        yield total, rates(optimizer), None
        optimizer.step()
        optimizer.zero_grad()


def groups():
    model = torch.nn.Linear(SIZE, 1)
    optimizer = torch.optim.AdamW(
        [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": torch.tensor(0.25)}],
        foreach=False,
        capturable=False,
    )
    loss = loss_of(model)
    loss.backward()
    yield loss.item(), [0.1, 0.25], None
    optimizer.step()


def foreach():
    model, optimizer = made(torch.optim.AdamW, foreach=True)
    loss = loss_of(model)
    loss.backward()
    yield loss.item(), rates(optimizer), None
    optimizer.step()


def fused():
    model, optimizer = made(torch.optim.AdamW, fused=True)
    loss = loss_of(model)
    loss.backward()
    yield loss.item(), rates(optimizer), None
    optimizer.step()


def two_of_one_loss():
    """As with Muon for the matrices and AdamW for the rest: one step of the run is one of each."""
    model = torch.nn.Linear(SIZE, 1)
    first = torch.optim.SGD([model.weight], lr=0.1)
    second = torch.optim.AdamW([model.bias], lr=0.01)
    for _ in range(3):
        loss = loss_of(model)
        loss.backward()
        yield loss.item(), rates(first), None
        first.step()
        second.step()
        first.zero_grad()
        second.zero_grad()


def adversarial():
    """A GAN: the discriminator, which steps first, leads."""
    one, one_step = made()
    other, other_step = made(rate=0.3)
    for _ in range(3):
        one_step.zero_grad()
        real, fake = loss_of(one), loss_of(one)
        real.backward()
        fake.backward()
        yield real.item() + fake.item(), rates(one_step), None
        one_step.step()
        other_step.zero_grad()
        loss_of(other).backward()
        other_step.step()


def closure():
    model, optimizer = made()
    for _ in range(2):
        seen = []

        def evaluate(seen=seen):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            seen.append(loss.item())
            return loss

        optimizer.step(evaluate)
        yield seen[0], rates(optimizer), None


def lbfgs():
    model, optimizer = made(torch.optim.LBFGS, max_iter=5)
    batch = torch.randn(8, SIZE)
    for _ in range(2):

        def evaluate():
            optimizer.zero_grad()
            loss = ((model(batch) - 1) ** 2).mean()
            loss.backward()
            return loss

        yield optimizer.step(evaluate).item(), rates(optimizer), None


def scaled(**options):
    """The second step meets an infinity: it is left out, and so is its loss."""
    model, optimizer = made(torch.optim.AdamW, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for turn in range(3):
        optimizer.zero_grad()
        loss = loss_of(model)
        scaler.scale(loss).backward()
        if turn == 1:
            model.weight.grad[0, 0] = float("inf")
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if turn != 1:
            yield loss.item(), rates(optimizer), norm.item()
        scaler.step(optimizer)
        scaler.update()


def scaled_and_fused():
    yield from scaled(fused=True)


def scaled_by_hand():
    """What a scaler's result was made into is no loss that could be told."""
    model, optimizer = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    (scaler.scale(loss_of(model)) / 2).backward()
    yield None, rates(optimizer), None
    scaler.step(optimizer)


def inside_backward():
    """One optimizer for each parameter, stepping as its gradient comes: one backward is one step."""
    model = torch.nn.Linear(SIZE, 1)
    optimizers = {each: torch.optim.SGD([each], lr=0.1) for each in model.parameters()}

    def take(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(take)
    for _ in range(2):
        loss = loss_of(model)
        yield loss.item(), [0.1], None
        loss.backward()


def without_backward():
    model, optimizer = made()
    loss = loss_of(model)
    for parameter, gradient in zip(
        model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
    ):
        parameter.grad = gradient
    yield None, rates(optimizer), None
    optimizer.step()


def thrown_away():
    """A batch whose gradients are dropped is part of no step."""
    model, optimizer = made()
    loss_of(model).backward()
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    yield loss.item(), rates(optimizer), None
    optimizer.step()


def failing():
    """A step that raised is none; the next one is."""
    model, optimizer = made()

    def bad():
        raise ArithmeticError

    with contextlib.suppress(ArithmeticError):
        optimizer.step(bad)
    loss = loss_of(model)
    loss.backward()
    yield loss.item(), rates(optimizer), None
    optimizer.step()


def wrapped():
    """An optimizer around another, as ZeRO and accelerate have them: one step."""

    class Around(torch.optim.Optimizer):
        def __init__(self, inner):
            super().__init__(inner.param_groups, {})
            self.inner = inner

        def step(self, closure=None):
            return self.inner.step(closure)

    model, inner = made()
    optimizer = Around(inner)
    for _ in range(2):
        loss = loss_of(model)
        loss.backward()
        yield loss.item(), rates(optimizer), None
        optimizer.step()
        optimizer.zero_grad()


def not_finite():
    model, optimizer = made()
    loss = loss_of(model) * float("nan")
    loss.backward()
    yield float("nan"), rates(optimizer), None
    optimizer.step()


def of_no_torch_optimizer():
    """Steps that nobody can see: none."""
    model = torch.nn.Linear(SIZE, 1)
    for _ in range(3):
        loss_of(model).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    yield from ()


def compiled():
    model, optimizer = made()
    fast = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        optimizer.zero_grad()
        loss = loss_of(fast)
        loss.backward()
        yield loss.item(), rates(optimizer), None
        optimizer.step()


def compiled_optimizer():
    """Its step cannot be seen: none, though its gradients were."""
    model, optimizer = made()
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        step()
    optimizer.zero_grad()
    yield from ()


def compiled_whole():
    model, optimizer = made()

    @torch.compile(backend="eager")
    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    for _ in range(2):
        step()
    yield from ()


WAYS = (
    plain,
    clipped,
    clipped_in_parts,
    accumulated,
    groups,
    foreach,
    fused,
    two_of_one_loss,
    adversarial,
    closure,
    lbfgs,
    scaled,
    scaled_and_fused,
    scaled_by_hand,
    inside_backward,
    without_backward,
    thrown_away,
    failing,
    wrapped,
    not_finite,
    compiled,
    compiled_optimizer,
    compiled_whole,
    of_no_torch_optimizer,
)


def main():
    names = sys.argv[1:] or [way.__name__ for way in WAYS]
    for way in WAYS:
        if way.__name__ not in names:
            continue
        torch.manual_seed(0)
        rows = [list(row) for row in way()]
        print(json.dumps({"way": way.__name__, "rows": rows}), flush=True)
        gc.collect()  # the optimizer is gone, and with it its lead


if __name__ == "__main__":
    main()
