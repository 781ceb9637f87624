"""What any implementation of NSAAttention must do: checks that take a class, the real one or a faulty one.

Expected values come from the configuration (here and in `nsa.smoke.receptive`), or from `nsa.reference`, and
never from `nsa.layout`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nsa import reference
from nsa.config import ModelConfig, SparseConfig
from nsa.smoke.receptive import allowed, reach

# l = 2d and l' = 4d, as in the paper; more blocks than may be selected from 48 tokens on.
SPARSE = SparseConfig(
    compress_block=8,
    compress_stride=4,
    select_block=16,
    select_count=3,
    initial_blocks=1,
    local_blocks=1,
    window=10,
)
# Nothing is left to choose: what is selected follows from the position alone.
FORCED = SPARSE.model_copy(update={"select_count": 2})
LENGTHS = (41, 3, 1, 7, 95)


def model_of(nsa=SPARSE, **sizes):
    return ModelConfig(
        **{"dim": 12, "layers": 1, "heads": 4, "kv_groups": 2, "head_dim": 4, "nsa": nsa, **sizes}
    )


def made(cls, model, seed=0):
    """A float64 layer whose weights are large enough for choices and gradients to be unmistakable."""
    generator = torch.Generator().manual_seed(seed)
    layer = cls(model).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return layer


def noise(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ids_of(*lengths):
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]


def expected(layer, x_BSD, ids_BS):
    """One trace of the reference per row."""
    weights = {name: weight.detach().numpy() for name, weight in layer.state_dict().items()}
    return [
        reference.nsa_attention(x.detach().numpy(), ids.tolist(), weights, layer.model)
        for x, ids in zip(x_BSD, ids_BS, strict=True)
    ]


def assert_equals_reference(layer, x_BSD, ids_BS):
    with torch.no_grad():
        out_BSD = layer(x_BSD, ids_BS)
        branches = layer.branches(layer.project(x_BSD), layer.layout(ids_BS))
    for row, trace in enumerate(expected(layer, x_BSD, ids_BS)):
        for name, o_BHSK in branches._asdict().items():
            np.testing.assert_allclose(
                o_BHSK[row].transpose(0, 1).numpy(), getattr(trace, name), rtol=1e-9, atol=1e-11, err_msg=name
            )
        np.testing.assert_allclose(out_BSD[row].numpy(), trace.out, rtol=1e-9, atol=1e-10)


def equals_reference(cls):
    total = sum(LENGTHS)
    ids_BS = torch.cat((ids_of(*LENGTHS), torch.zeros(1, total, dtype=torch.long), ids_of(70, total - 70)))
    assert_equals_reference(made(cls, model_of()), noise(3, total, 12), ids_BS)


def starts_of(ids):
    """Where the document of each position starts."""
    starts = []
    for t, document in enumerate(ids):
        starts.append(starts[-1] if t and document == ids[t - 1] else t)
    return starts


def values_reach_exactly_their_queries(cls):
    """Branch by branch, by the gradient with regard to that branch's values."""
    ids_BS = ids_of(*LENGTHS)
    layer = made(cls, model_of(FORCED))
    with torch.no_grad():
        projected = layer.project(noise(1, sum(LENGTHS), 12))
    pairs = {}
    for name in ("compressed", "selected", "window"):
        k_BSGK, v_BSGK = getattr(projected, f"{name}_BSGK")
        pairs[name] = (k_BSGK, v_BSGK[0].clone().requires_grad_())
    projected = projected._replace(**{f"{name}_BSGK": (k, v[None]) for name, (k, v) in pairs.items()})
    branches = layer.branches(projected, layer.layout(ids_BS))
    for name, expected_SS in allowed(FORCED, ids_BS[0].tolist()).items():
        o_SHK = getattr(branches, name)[0].transpose(0, 1)
        np.testing.assert_array_equal(reach(o_SHK, pairs[name][1]), expected_SS, err_msg=name)


def inputs_reach_exactly_their_outputs(cls):
    """The whole layer, by the gradient with regard to its input."""
    lengths = (57, 3, 30)
    # A window so short that it does not hide what the other branches see, and a gap between blocks of each.
    nsa = FORCED.model_copy(update={"window": 3, "initial_blocks": 1})
    ids_BS = ids_of(*lengths)
    layer = made(cls, model_of(nsa))
    x_SD = noise(sum(lengths), 12).requires_grad_()
    out_SD = layer(x_SD[None], ids_BS)[0]
    sets = allowed(nsa, ids_BS[0].tolist())
    np.testing.assert_array_equal(reach(out_SD, x_SD), sets["compressed"] | sets["selected"] | sets["window"])


def future_changes_nothing(cls):
    """Whatever comes after t, output t stays: no gradient shows a choice of blocks that looks ahead."""
    layer, sequence = made(cls, model_of()), 160
    ids_BS = torch.zeros(1, sequence, dtype=torch.long)
    x_BSD = noise(1, sequence, 12)
    with torch.no_grad():
        before = layer(x_BSD, ids_BS)
        for t in (7, 60, 100, 120):
            changed = torch.cat((x_BSD[:, : t + 1], 9.0 * noise(1, sequence - t - 1, 12, seed=t)), dim=1)
            torch.testing.assert_close(
                layer(changed, ids_BS)[:, : t + 1], before[:, : t + 1], rtol=0, atol=1e-11
            )


def first_tokens_see_no_block(cls):
    """The first l - 1 tokens of a document: a compressed output of exactly 0; finite gradients everywhere."""
    for lengths in (LENGTHS, (5,), (3, 4)):
        ids_BS = ids_of(*lengths)
        layer = made(cls, model_of())
        x_BSD = noise(1, sum(lengths), 12).requires_grad_()
        branches = layer.branches(layer.project(x_BSD), layer.layout(ids_BS))
        starts = starts_of(ids_BS[0].tolist())
        early = torch.tensor([t - start < SPARSE.compress_block - 1 for t, start in enumerate(starts)])
        zero_S = (branches.compressed[0] == 0).all(dim=-1).all(dim=0)
        assert torch.equal(zero_S, early)
        layer(x_BSD, ids_BS).square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in layer.named_parameters()} | {"x": x_BSD.grad}
        for name, gradient in gradients.items():
            # None would do in one process, but under DDP a parameter left out is an error.
            assert gradient is not None, f"no gradient for {name}"
            assert gradient.isfinite().all(), f"gradient of {name} is not finite"


def documents_are_apart(cls):
    """A packed row equals its documents, each by itself: outputs, and the angles of rotary embedding."""
    layer = made(cls, model_of())
    x_BSD = noise(1, sum(LENGTHS), 12)
    with torch.no_grad():
        packed = layer(x_BSD, ids_of(*LENGTHS))
        angles = layer.layout(ids_of(*LENGTHS)).documents.angles.cos_B1SF
        parts = (packed.split(LENGTHS, dim=1), x_BSD.split(LENGTHS, dim=1), angles.split(LENGTHS, dim=2))
        for out, x, cos in zip(*parts, strict=True):
            alone = torch.zeros(1, x.shape[1], dtype=torch.long)
            torch.testing.assert_close(out, layer(x, alone), rtol=0, atol=1e-11)
            assert torch.equal(cos, layer.layout(alone).documents.angles.cos_B1SF)


def earlier_of_equals_is_selected(cls):
    """Queries of zero give every complete block the same score; blocks 0 and own are forced."""
    layer = made(cls, model_of())
    with torch.no_grad():
        layer.q.weight.zero_()
        x_BSD = noise(1, 160, 12)
        layout = layer.layout(torch.zeros(1, 160, dtype=torch.long))
        projected = layer.project(x_BSD)
        k_BGNK, _ = layer.compress(projected.compressed_BSGK, layout.compressed)
        q_BHSK = layout.documents.angles.turn(projected.q_BHSK)
        mask_X1SS = layer.select(q_BHSK, k_BGNK, layout.compressed, layout.selection)
    for t in range(64, 160):
        for mask_S in mask_X1SS[:, 0, t]:
            assert {s // 16 for s in mask_S.nonzero().flatten().tolist()} == {0, 1, t // 16}


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def calls_do_not_grow(cls):
    """No loop over positions, heads or documents: as many kernels are called whatever their number."""
    found = []
    for sequence, groups, documents in ((200, 2, 3), (200, 2, 12), (400, 2, 3), (200, 8, 3)):
        layer = made(cls, model_of(heads=2 * groups, kv_groups=groups))
        ids_BS = (torch.arange(sequence) * documents // sequence)[None]
        x_BSD = noise(1, sequence, 12).requires_grad_()
        with _Counter() as counter:
            layer(x_BSD, ids_BS).sum().backward()
        found.append(counter.calls)
    # Some copies depend on the strides at hand.
    assert max(found) - min(found) <= 4, f"calls of kernels: {found}"


CHECKS = (
    equals_reference,
    values_reach_exactly_their_queries,
    inputs_reach_exactly_their_outputs,
    future_changes_nothing,
    first_tokens_see_no_block,
    documents_are_apart,
    earlier_of_equals_is_selected,
    calls_do_not_grow,
)
