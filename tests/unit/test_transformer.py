"""The transformer: size, causality, loss without logits, FLOPs, checkpointing, and that it can learn."""

from __future__ import annotations

import math

import pytest

from tests.support import needs

torch = needs.require("torch")
needs.require("pydantic")

import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nsa import attention
from nsa.config import ModelConfig
from nsa.transformer import LOSS_CHUNK, Transformer
from tests.support.attention_checks import SPARSE, ids_of

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 61
M7C = {"dim": 768, "layers": 12, "heads": 12, "kv_groups": 2}


def small(**changes):
    torch.manual_seed(0)
    model = ModelConfig(**{"dim": 16, "layers": 2, "heads": 4, "kv_groups": 2, "nsa": SPARSE, **changes})
    return Transformer(model, VOCABULARY, 128)


def text(*lengths, rows=1):
    """Tokens (rows, S + 1) and their documents' ids."""
    ids = ids_of(*lengths).expand(rows, -1)
    return torch.randint(VOCABULARY, ids.shape, generator=torch.Generator().manual_seed(3)), ids


def test_the_125m_model_is_of_its_name():
    with torch.device("meta"):
        sparse = Transformer(ModelConfig(**M7C), 50_257, 1024)
        dense = Transformer(ModelConfig(**M7C, attention="dense"), 50_257, 1024)
    assert 120e6 <= sparse.parameter_count() <= 130e6
    # What NSA adds is small, so that comparing the two compares the attention.
    assert 0.85 < dense.parameter_count() / sparse.parameter_count() < 1


def test_embeddings_are_tied_unless_told_otherwise():
    tied, untied = small(), small(tie_embeddings=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.parameter_count() - tied.parameter_count() == VOCABULARY * 16


def test_first_loss_is_that_of_guessing():
    tokens, ids = text(100, 29)
    assert small().loss(tokens, ids).item() == pytest.approx(math.log(VOCABULARY), abs=0.1)


@pytest.mark.parametrize("kind", ["nsa", "dense"])
def test_no_output_depends_on_what_comes_later_or_on_other_documents(kind):
    model = small(attention=kind).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        tokens, ids = text(50, 60)
        before = model(tokens, ids)
        for t in (0, 20, 49, 70, 109):
            changed = tokens.clone()
            changed[0, t] = (changed[0, t] + 1) % VOCABULARY
            moved = (model(changed, ids) - before).abs().amax(dim=-1)[0] > 1e-9
            end = 50 if t < 50 else 110
            assert moved.nonzero().flatten().tolist() == list(range(t, end))


@pytest.mark.parametrize("kind", ["nsa", "dense"])
@pytest.mark.parametrize("rows", [1, 7])
def test_loss_and_its_gradients_are_those_of_the_logits(kind, rows):
    model = small(attention=kind).double()
    tokens, ids = text(70, 20, 15, rows=rows)
    assert rows == 1 or tokens.numel() % LOSS_CHUNK != 0
    loss = model.loss(tokens, ids) * 3.0
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    logits = model(tokens[:, :-1], ids[:, :-1])
    plain = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) * 3.0
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    for found, expected in zip(gradients, torch.autograd.grad(plain, list(model.parameters())), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_loss_without_gradients_is_the_same():
    model, (tokens, ids) = small(), text(100, 29)
    with torch.no_grad():
        loss = model.loss(tokens, ids)
    assert not loss.requires_grad
    assert loss.item() == model.loss(tokens, ids).item()


def test_loss_under_bfloat16_autocast_is_near_that_in_float32():
    model, (tokens, ids) = small(), text(100, 29)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(tokens, ids)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert loss.item() == pytest.approx(model.loss(tokens, ids).item(), abs=0.02)


class _Largest(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_loss_never_holds_the_logits_of_the_batch():
    torch.manual_seed(0)
    vocabulary, rows = 4000, 4
    model = Transformer(ModelConfig(dim=16, layers=1, heads=2, kv_groups=1, nsa=SPARSE), vocabulary, 255)
    tokens, ids = text(256, rows=rows)
    with _Largest() as largest:
        model.loss(tokens, ids).backward()
    assert largest.elements == LOSS_CHUNK * vocabulary
    assert largest.elements < rows * 255 * vocabulary


def test_layout_of_the_documents_is_made_once_for_all_layers(monkeypatch):
    made = []
    original = attention.Layout.of
    monkeypatch.setattr(attention.Layout, "of", lambda *a, **k: made.append(1) or original(*a, **k))
    model, (tokens, ids) = small(layers=3), text(100, 29)
    model.loss(tokens, ids).backward()
    assert len(made) == 1


@pytest.mark.parametrize("kind", ["nsa", "dense"])
def test_activation_checkpointing_changes_no_gradient(kind):
    model, (tokens, ids) = small(attention=kind), text(100, 29)
    plain = torch.autograd.grad(model.loss(tokens, ids), list(model.parameters()))
    model.activation_checkpointing = True
    again = torch.autograd.grad(model.loss(tokens, ids), list(model.parameters()))
    assert all(torch.equal(one, two) for one, two in zip(plain, again, strict=True))


@pytest.mark.parametrize("kind", ["nsa", "dense"])
@pytest.mark.parametrize("sequence", [5, 50, 128])
def test_flops_of_matrices_are_those_that_torch_counts(kind, sequence):
    model = small(attention=kind)
    tokens, ids = text(sequence)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens, ids)
    counted = counter.get_flop_counts()["Global"]
    matrices = sum(count for op, count in counted.items() if str(op) in ("aten.mm", "aten.addmm"))
    config = model.model
    keys = model._keys_per_query(sequence)
    attended = 6 * config.layers * 2 * config.heads * config.head_dim * keys
    ours = (model.flops_per_token(sequence) - attended) / 3 * sequence
    # A sequence too short for a compressed block still sends one through φ, and drops the result.
    dropped = 0
    if kind == "nsa" and sequence < SPARSE.compress_block:
        phi = (SPARSE.compress_block * config.head_dim + config.head_dim) * 2 * config.head_dim
        dropped = config.layers * 2 * 2 * config.kv_groups * phi
    assert matrices == pytest.approx(ours + dropped)


def test_flops_of_attention_are_those_of_the_pairs_it_allows():
    from tests.support.attention_checks import FORCED, allowed

    sequence = 100
    sets = allowed(FORCED, [0] * sequence)
    # A compressed block is one key, however many tokens it stands for.
    blocks = sum((t - 7) // 4 + 1 for t in range(7, sequence))
    pairs = blocks + sets["selected"].sum() + sets["window"].sum()
    assert small(nsa=FORCED)._keys_per_query(sequence) == pytest.approx(pairs / sequence)
    assert small(attention="dense")._keys_per_query(sequence) == (sequence + 1) / 2


# torch makes an instance itself when it traces an autograd.Function, and warns itself about it.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_compiles_into_one_graph(checkpointing):
    """Traced and run without code generation, which would need a C++ compiler."""
    model, (tokens, ids) = small(), text(100, 29)
    model.activation_checkpointing = checkpointing
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)
    try:
        eager, traced = (
            torch.autograd.grad(f(tokens, ids), list(model.parameters())) for f in (model.loss, compiled)
        )
        for one, two in zip(eager, traced, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    finally:
        torch.compiler.reset()


def test_seed_decides_the_weights():
    one, two = small(), small()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["nsa", "dense"])
def test_learns_what_it_sees_again_and_again(kind):
    torch.manual_seed(0)
    model = small(attention=kind, dim=32, head_dim=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens, ids = text(64, rows=4)
    first = last = model.loss(tokens, ids).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(tokens, ids)
        loss.backward()
        optimizer.step()
        last = loss.item()
    assert last < first / 2
