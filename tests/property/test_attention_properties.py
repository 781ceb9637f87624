"""NSA at any shape equals the reference; each check holds for ours and refuses the faults it is there for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import needs

torch = needs.require("torch")
needs.require("pydantic")

from nsa.attention import NSAAttention
from nsa.config import SparseConfig
from tests.property import faulty_attention
from tests.support import attention_checks as checks
from tests.support.examples import examples

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_holds(check):
    check(NSAAttention)


FAULTS = {
    faulty_attention.TopLeftCausalInCompressed: checks.values_reach_exactly_their_queries,
    faulty_attention.TopLeftCausalInWindow: checks.values_reach_exactly_their_queries,
    faulty_attention.FutureInSoftmax: checks.inputs_reach_exactly_their_outputs,
    faulty_attention.FutureInScores: checks.future_changes_nothing,
    faulty_attention.SelectsTheFuture: checks.future_changes_nothing,
    faulty_attention.NanToNum: checks.first_tokens_see_no_block,
    faulty_attention.MeanWhereNothingIsSeen: checks.first_tokens_see_no_block,
    faulty_attention.OwnBlockNotForced: checks.values_reach_exactly_their_queries,
    faulty_attention.InitialBlocksNotForced: checks.values_reach_exactly_their_queries,
    faulty_attention.WindowOfOneMore: checks.values_reach_exactly_their_queries,
    faulty_attention.WindowOfOneLess: checks.values_reach_exactly_their_queries,
    faulty_attention.LaterOfEquals: checks.earlier_of_equals_is_selected,
    faulty_attention.HalfPrecisionScores: checks.equals_reference,
    faulty_attention.GridAcrossDocuments: checks.documents_are_apart,
    faulty_attention.SelectionGridAcrossDocuments: checks.documents_are_apart,
    faulty_attention.MasksAcrossDocuments: checks.documents_are_apart,
    faulty_attention.RopeAcrossDocuments: checks.documents_are_apart,
    faulty_attention.MisalignedForwards: checks.equals_reference,
    faulty_attention.MisalignedBackwards: checks.equals_reference,
    faulty_attention.NoSumOverTheGroup: checks.equals_reference,
    faulty_attention.SharedKeysAndValues: checks.equals_reference,
    faulty_attention.PlacesForgotten: checks.equals_reference,
    faulty_attention.SelectionSkipped: checks.values_reach_exactly_their_queries,
    faulty_attention.LoopOverPositions: checks.calls_do_not_grow,
    faulty_attention.LoopOverHeads: checks.calls_do_not_grow,
}


@pytest.mark.parametrize(("faulty", "check"), FAULTS.items(), ids=lambda value: value.__name__)
def test_fault_is_found(faulty, check):
    with pytest.raises(AssertionError):
        check(faulty)


def test_every_fault_and_every_check_is_used():
    kinds = {
        value
        for name, value in vars(faulty_attention).items()
        if isinstance(value, type)
        and value.__module__ == faulty_attention.__name__
        and not name.startswith("_")
    }
    assert kinds == set(FAULTS)
    assert set(checks.CHECKS) == set(FAULTS.values())


@st.composite
def shapes(draw):
    """Configurations, and packed rows of any length; only blocks need to be multiples of their stride."""
    stride = draw(st.integers(1, 4))
    block = stride * draw(st.integers(1, 3))
    initial, local = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    nsa = SparseConfig(
        compress_block=block,
        compress_stride=stride,
        select_block=max(block, stride * draw(st.integers(1, 5))),
        select_count=initial + local + draw(st.integers(0, 3)),
        initial_blocks=initial,
        local_blocks=local,
        window=draw(st.integers(1, 40)),
    )
    groups = draw(st.sampled_from([1, 2, 3]))
    model = checks.model_of(nsa, kv_groups=groups, heads=groups * draw(st.sampled_from([1, 2, 6])))
    sequence = draw(st.one_of(st.just(1), st.integers(1, block), st.integers(1, 70)))
    ids = draw(
        st.lists(st.lists(st.integers(0, 1), min_size=sequence, max_size=sequence), min_size=1, max_size=2)
    )
    rare = draw(st.booleans())
    ids_BS = torch.tensor(ids)
    if rare:
        # Boundaries in a tenth of the places, so that documents are long enough to have blocks.
        ids_BS = (ids_BS * (torch.arange(sequence) % 10 == 0)).cumsum(dim=1)
    return model, ids_BS, draw(st.integers(0, 1000))


@settings(max_examples=examples(60), deadline=None)
@given(shape=shapes())
def test_equals_the_reference_at_any_shape(shape):
    model, ids_BS, seed = shape
    layer = checks.made(NSAAttention, model, seed)
    checks.assert_equals_reference(layer, checks.noise(*ids_BS.shape, model.dim, seed=seed), ids_BS)
