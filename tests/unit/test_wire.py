"""The heartbeat's layout: nothing overlaps, nothing changes by accident, half a block is no block."""

from __future__ import annotations

import hashlib
import itertools
import math

import pytest

from harness import wire

RINGS = {
    "facts": wire.FACTS,
    "now": wire.NOW,
    "stages": wire.STAGE_CHANGES,
    "steps": wire.STEPS,
    "phases": wire.PHASE_TOTALS,
    "rates": wire.RATES,
}


def test_parts_do_not_overlap():
    parts = [
        (0, wire.HEADER.size + wire.CHECK.size),
        (wire.COUNTERS_AT, wire.COUNTERS_AT + wire.COUNTERS.size),
        *((ring.offset, ring.end) for ring in RINGS.values()),
    ]
    for (_, end), (begin, _) in itertools.pairwise(parts):
        assert end <= begin
    assert parts[-1][1] == wire.SIZE


def test_a_thousand_ranks_fit_into_a_third_of_a_gigabyte():
    assert wire.SIZE <= 300 * 1024


def test_every_block_is_aligned():
    assert all(ring.at(n) % 8 == 0 for ring in RINGS.values() for n in range(ring.count))


def test_layout_changes_only_with_the_version():
    described = ";".join(f"{name} {r.offset} {r.count} {r.body.format}" for name, r in RINGS.items())
    layout = f"{wire.HEADER.format} {wire.COUNTERS_AT} {wire.COUNTERS.format} {wire.PHASES} {described}"
    digest = hashlib.sha256(layout.encode()).hexdigest()[:16]
    assert (wire.VERSION, digest) == (1, "e8694e581a777734"), "a changed layout needs the next VERSION"


def test_names_fit_and_are_unique():
    for names in (wire.STAGES, wire.PHASES):
        assert len(set(names)) == len(names)
        assert all(len(name.encode()) <= wire.NAME_BYTES for name in names)


def test_nothing_else_is_taken_for_absent():
    assert wire.is_absent(wire.ABSENT)
    assert not any(
        wire.is_absent(value) for value in (math.nan, -math.nan, math.inf, 0.0, math.inf - math.inf)
    )


@pytest.mark.parametrize("ring", RINGS.values(), ids=RINGS)
def test_blank_space_is_no_block(ring):
    assert wire.unseal(ring, bytes(ring.bytes)) is None


@pytest.mark.parametrize("ring", RINGS.values(), ids=RINGS)
def test_one_flipped_bit_is_no_block(ring):
    from binascii import crc32

    body = bytes(range(256)) * 2
    body = body[: ring.body.size]
    block = body + wire.CHECK.pack(crc32(body))
    assert wire.unseal(ring, block) is not None
    for bit in range(0, (ring.bytes - 4) * 8, 37):
        damaged = bytearray(block)
        damaged[bit // 8] ^= 1 << bit % 8
        assert wire.unseal(ring, bytes(damaged)) is None


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("train", "train"),
        ("x" * 40, "x" * 31),
        ("é" * 20, "é" * 15),  # never half a letter
        ("a\0b", "a"),
        ("red\x1b[31m", "red�[31m"),
        ("", ""),
        ("\ud800", "?"),
    ],
)
def test_text_is_cut_and_made_harmless(text, read):
    assert wire.unpack_text(wire.pack_text(text).ljust(32, b"\0")) == read
