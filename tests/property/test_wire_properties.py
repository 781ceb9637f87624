"""Whatever is emitted is read back; whatever is not a whole block is not read at all."""

from __future__ import annotations

import math
import os
from binascii import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import emit, place, wire
from harness.errors import RecordError
from harness.watch import decoding, heartbeat
from tests.support.examples import examples

int64 = st.integers(-(2**63), 2**63 - 1)
size = st.integers(0, 2**63 - 1)
number = st.floats(width=64)
seconds = st.floats(0, 1e6, allow_nan=False)
steps = st.fixed_dictionaries(
    {"n": int64},
    optional={
        "loss": number,
        "grad_norm": number,
        "lr": number | st.lists(number, max_size=wire.MAX_RATES),
        "tokens": st.integers(0, 2**47),
        "memory": st.tuples(size, size, size),
        "phase_seconds": st.dictionaries(st.sampled_from(wire.PHASES), seconds),
    },
)
quick = settings(
    max_examples=examples(60),
    deadline=None,
    # A folder that all examples of a test share.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_RUN_DIR", str(tmp_path))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(emit, "_given_up", False)
    yield tmp_path / "ranks" / "00000.beat"
    emit.close()


def same(a, b):
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize("ordered", [True, False])
@quick
@given(emitted=st.lists(steps, max_size=8))
def test_steps_are_read_back_as_emitted(path, monkeypatch, ordered, emitted):
    monkeypatch.setattr(place, "is_ordered", lambda: ordered)
    emit.close()
    emit.open()
    for given_step in emitted:
        emit.step(**given_step)
    with heartbeat.Reader(path) as reader:
        drained = reader.drain()
    assert drained.lost is None
    assert [row.index for row in drained.rows] == list(range(len(emitted)))
    for row, told in zip(drained.rows, emitted, strict=True):
        assert row.step == told["n"]
        assert same(row.loss, told.get("loss"))
        assert same(row.grad_norm, told.get("grad_norm"))
        assert (row.tokens, row.memory) == (told.get("tokens"), told.get("memory"))
        rates = told.get("lr", [])
        rates = [rates] if isinstance(rates, float) else rates
        assert len(rates) == len(row.learning_rates)
        assert all(map(same, row.learning_rates, rates))
        for name, value in told.get("phase_seconds", {}).items():
            assert row.phase_seconds.get(name, 0.0) == pytest.approx(value, rel=1e-6, abs=1e-6)


@quick
@given(text=st.text(), stages=st.lists(st.text(), min_size=1, max_size=4), total=int64, peak=number)
def test_declarations_and_names_are_read_back(path, text, stages, total, peak):
    emit.close()
    emit.open(total_steps=total, schedule={"kind": text, "peak": peak})
    for name in stages:
        emit.stage(name).__enter__()
    emit.phase(text)
    emit.progress(detail=text)
    seen = heartbeat.read(path)

    def cut(told, limit=wire.NAME_BYTES):
        return wire.unpack_text(wire.pack_text(told, limit))

    assert seen.total_steps == total
    assert seen.schedule is not None
    assert seen.schedule["kind"] == cut(text)
    assert same(seen.schedule["peak"], peak)
    assert [entry.stage for entry in seen.stages] == ["boot", *map(cut, stages)]
    assert (seen.phase or "") == cut(text)
    assert (seen.detail or "") == cut(text, wire.DETAIL_BYTES)


@quick
@given(rank=st.integers(0, 99_999), run_id=st.text(), attempt=st.integers(1, 2**32 - 1))
def test_the_header_is_read_back(tmp_path, rank, run_id, attempt):
    place.create(str(tmp_path), rank, run_id=run_id, attempt=attempt, begin=lambda mapped: mapped)
    raw = (tmp_path / "ranks" / f"{rank:05d}.beat").read_bytes()[: wire.COUNTERS_AT]
    header, _ = decoding.parse_header("x", raw)
    assert (header["rank"], header["attempt"], header["pid"]) == (rank, attempt, os.getpid())
    assert header["run_id"] == wire.unpack_text(wire.pack_text(run_id, 63))


@quick
@given(st.binary(min_size=wire.STEPS.body.size, max_size=wire.STEPS.body.size), st.data())
def test_a_mixture_of_two_blocks_is_neither(body, data):
    other = bytes(byte ^ 0xA5 for byte in body)
    old, new = (half + wire.CHECK.pack(crc32(half)) for half in (body, other))
    cut = data.draw(st.integers(1, wire.STEPS.bytes - 5))
    assert wire.unseal(wire.STEPS, new[:cut] + old[cut:]) is None


@quick
@given(st.binary(max_size=2 * wire.STEPS.bytes))
def test_random_bytes_are_no_block(noise):
    for ring in (wire.FACTS, wire.NOW, wire.STAGE_CHANGES, wire.STEPS):
        assert wire.unseal(ring, noise) is None


@quick
@given(noise=st.binary(max_size=600), ours=st.booleans())
def test_random_files_are_refused_with_one_clear_line(tmp_path, noise, ours):
    path = tmp_path / "noise"
    path.write_bytes((wire.MAGIC if ours else b"") + noise)
    with pytest.raises(RecordError) as refused:
        heartbeat.read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    path.unlink()


@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 2500), max_size=4))
def test_rows_and_losses_are_exact_however_late_one_looks(path, bursts):
    emit.close()
    emit.open()
    count = wire.STEPS.count
    with heartbeat.Reader(path) as reader:
        written = 0
        for burst in bursts:
            for index in range(written, written + burst):
                emit.step(index)
            drained = reader.drain()
            # The place of the ring's oldest row is that of the next one, which may be half written.
            expected = range(max(written, written + burst - count + 1), written + burst)
            assert [row.index for row in drained.rows] == list(expected)
            assert drained.lost == ((written, expected.start - 1) if expected.start > written else None)
            written += burst
        assert heartbeat.read(path).steps_written == written
