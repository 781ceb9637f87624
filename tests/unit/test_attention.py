"""Attention where one example says it: Eq. 9 in numbers, gradients, dtypes, compile, the dense layer."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support import needs

torch = needs.require("torch")
needs.require("pydantic")

from torch.utils.checkpoint import checkpoint

from nsa.attention import DenseAttention, NSAAttention, overlap_scores
from nsa.layout import Layout, SelectionBlocks
from tests.support.attention_checks import LENGTHS, SPARSE, ids_of, made, model_of, noise

pytestmark = pytest.mark.usefixtures("one_thread")

TOTAL = sum(LENGTHS)


def test_selection_block_takes_five_compressed_blocks_by_their_overlap():
    # l = 32, d = 16, l' = 64: block j takes 4j-1 to 4j+3 with weights 1, 2, 2, 2, 1.
    weights_NJ = overlap_scores(torch.eye(15), blocks=4, length=32, stride=16, select_block=64)
    assert weights_NJ.T.tolist() == [
        [2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 2, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2],
    ]


@pytest.mark.parametrize(("length", "stride", "select_block"), [(4, 4, 4), (6, 2, 8), (4, 1, 4), (8, 4, 8)])
def test_weights_are_the_shared_tokens_over_the_stride(length, stride, select_block):
    count, blocks = 9, 8 * stride // select_block + length
    weights_NJ = overlap_scores(
        torch.eye(count), blocks=blocks, length=length, stride=stride, select_block=select_block
    )
    for i in range(count):
        for j in range(blocks):
            tokens = set(range(i * stride, i * stride + length))
            shared = tokens & set(range(j * select_block, (j + 1) * select_block))
            assert weights_NJ[i, j] == len(shared) / stride


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_selection_is_skipped_only_where_it_would_select_all(dtype):
    """With no more blocks than may be selected, scoring and skipping give one mask, and one output."""
    longest = SPARSE.select_block * SPARSE.select_count
    layer = made(NSAAttention, model_of()).to(dtype)
    for ids_BS in (torch.zeros(1, longest, dtype=torch.long), ids_of(9, longest - 9)):
        skipping = layer.layout(ids_BS)
        assert skipping.selection is None
        choosing = dataclasses.replace(
            skipping, selection=SelectionBlocks.of(skipping.documents, skipping.compressed, layer.model.nsa)
        )
        x_BSD = noise(1, longest, 12).to(dtype)
        with torch.no_grad():
            projected = layer.project(x_BSD)
            k_BGNK, _ = layer.compress(projected.compressed_BSGK, choosing.compressed)
            q_BHSK = choosing.documents.angles.turn(projected.q_BHSK)
            mask = layer.select(q_BHSK, k_BGNK, choosing.compressed, choosing.selection)
            assert torch.equal(mask, choosing.selection.causal_B1SS.expand_as(mask))
            # Only the kernel's own causal path, where it is taken, adds in another order.
            tolerance = 4 * torch.finfo(dtype).eps if skipping.documents.causal_B1SS is None else 0.0
            torch.testing.assert_close(
                layer(x_BSD, skipping), layer(x_BSD, choosing), rtol=tolerance, atol=30 * tolerance
            )
    assert layer.layout(torch.zeros(1, longest + 1, dtype=torch.long)).selection is not None


@pytest.mark.parametrize("cls", [NSAAttention, DenseAttention])
def test_one_document_takes_the_causal_path_and_equals_the_masked_one(cls):
    layer = made(cls, model_of())
    ids_BS = torch.full((2, 40), 3)
    x_BSD = noise(2, 40, 12)
    layout = layer.layout(ids_BS)
    documents = layout.documents if isinstance(layout, Layout) else layout
    assert documents.causal_B1SS is None
    masked = dataclasses.replace(
        documents, causal_B1SS=torch.ones(40, 40, dtype=torch.bool).tril()[None, None]
    )
    masked = dataclasses.replace(layout, documents=masked) if isinstance(layout, Layout) else masked
    with torch.no_grad():
        for batch in (x_BSD[:1], x_BSD[1:]):
            one = layer.layout(ids_BS[:1])
            torch.testing.assert_close(
                layer(batch, one), layer(batch, masked_row(masked)), rtol=0, atol=1e-12
            )


def masked_row(layout):
    """The first row of a masked layout."""

    def first(value):
        if isinstance(value, torch.Tensor):
            return value[:1]
        if dataclasses.is_dataclass(value):
            return type(value)(**{f.name: first(getattr(value, f.name)) for f in dataclasses.fields(value)})
        return value

    return first(layout)


def test_dense_attention_sees_its_document_up_to_itself():
    layer = made(DenseAttention, model_of())
    x_BSD, ids_BS = noise(1, TOTAL, 12), ids_of(*LENGTHS)
    with torch.no_grad():
        packed = layer(x_BSD, ids_BS)
        parts = zip(x_BSD.split(LENGTHS, dim=1), packed.split(LENGTHS, dim=1), strict=True)
        for x, out in parts:
            alone = torch.zeros(1, x.shape[1], dtype=torch.long)
            torch.testing.assert_close(out, layer(x, alone), rtol=0, atol=1e-12)
            # By hand, its first query and its last.
            q = layer.layout(alone).angles.turn(layer.q(x).view(1, -1, 4, 4).transpose(1, 2))
            k, v = (
                y.repeat_interleave(2, 2).transpose(1, 2) for y in layer.kv(x).view(1, -1, 2, 2, 4).unbind(2)
            )
            k = layer.layout(alone).angles.turn(k)
            last = (q[:, :, -1:] @ k.mT / 2).softmax(-1) @ v
            torch.testing.assert_close(
                out[:, -1:], layer.out(last.transpose(1, 2).flatten(2)), rtol=0, atol=1e-12
            )
            torch.testing.assert_close(
                out[:, :1], layer.out(v[:, :, :1].transpose(1, 2).flatten(2)), rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("cls", [NSAAttention, DenseAttention])
def test_gradients_are_those_of_finite_differences(cls):
    sparse = SPARSE.model_copy(
        update={"compress_block": 4, "compress_stride": 2, "select_block": 4, "window": 3}
    )
    layer = made(cls, model_of(sparse, dim=4, heads=2, kv_groups=1, head_dim=2))
    ids_BS = ids_of(3, 15)
    x_BSD = noise(1, 18, 4).requires_grad_()
    parameters = dict(layer.named_parameters())

    def out(x, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x, ids_BS))

    assert torch.autograd.gradcheck(out, (x_BSD, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("cls", [NSAAttention, DenseAttention])
def test_ids_may_be_any_numbers_of_any_integer_type(cls):
    layer, x_BSD = made(cls, model_of()), noise(1, TOTAL, 12)
    plain = ids_of(*LENGTHS)
    # A document's id may come again later: a run of equal ids is a document.
    odd = torch.tensor([7, -3, 7, 2**31 - 1, 7])[plain].to(torch.int32)
    with torch.no_grad():
        assert torch.equal(layer(x_BSD, plain), layer(x_BSD, odd))


@pytest.mark.parametrize("cls", [NSAAttention, DenseAttention])
def test_bfloat16_autocast_is_near_float32(cls):
    layer = made(cls, model_of()).float()
    x_BSD, ids_BS = noise(2, TOTAL, 12).float(), ids_of(*LENGTHS).expand(2, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x_BSD, ids_BS)
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    full = layer(x_BSD, ids_BS)
    # A block or two may be chosen otherwise: near in the mean, not at each element.
    assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean()


@pytest.mark.parametrize("cls", [NSAAttention, DenseAttention])
def test_activation_checkpointing_changes_nothing(cls):
    layer, ids_BS = made(cls, model_of()), ids_of(*LENGTHS)
    x_BSD = noise(1, TOTAL, 12).requires_grad_()
    plain = torch.autograd.grad(layer(x_BSD, ids_BS).square().sum(), [x_BSD, *layer.parameters()])
    again = checkpoint(layer, x_BSD, layer.layout(ids_BS), use_reentrant=False)
    for before, after in zip(
        plain, torch.autograd.grad(again.square().sum(), [x_BSD, *layer.parameters()]), strict=True
    ):
        assert torch.equal(before, after)


@pytest.mark.parametrize("cls", [NSAAttention, DenseAttention])
def test_whole_layer_compiles_into_one_graph(cls):
    """Traced and run without code generation, which would need a C++ compiler: a graph break would raise."""
    layer, ids_BS = made(cls, model_of()), ids_of(*LENGTHS)
    x_BSD = noise(1, TOTAL, 12).requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    try:
        eager, traced = layer(x_BSD, ids_BS), compiled(x_BSD, ids_BS)
        torch.testing.assert_close(traced, eager, rtol=0, atol=1e-11)
        (traced_grad,) = torch.autograd.grad(traced.square().sum(), x_BSD)
        (eager_grad,) = torch.autograd.grad(eager.square().sum(), x_BSD)
        torch.testing.assert_close(traced_grad, eager_grad, rtol=0, atol=1e-9)
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize("cls", [NSAAttention, DenseAttention])
def test_layer_is_deterministic(cls):
    layer, ids_BS = made(cls, model_of()).float(), ids_of(*LENGTHS)
    x_BSD = noise(1, TOTAL, 12).float()

    def gradients():
        layer.zero_grad()
        layer(x_BSD, ids_BS).square().sum().backward()
        return [parameter.grad.clone() for parameter in layer.parameters()]

    assert all(torch.equal(one, two) for one, two in zip(gradients(), gradients(), strict=True))
