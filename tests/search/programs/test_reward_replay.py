import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from kilobit.search.programs.numbers import NumbersCode, decode_numbers, step_of
from kilobit.search.programs.program import build, decode
from kilobit.search.programs.reward_replay import HEAD_BYTES, Replay
from kilobit.search.programs.script import _sums
from kilobit.search.programs.text import PayloadError
from kilobit.search.streams import noise_signs, stream
from tests.support.recipes import RECIPES

SIGNS = st.lists(st.sampled_from([-1, 0, 1]), max_size=60)
# 12 signs over 9 numbers from seed 7.
SOME = [1, 1, -1, 0, 1, -1, -1, 1, 0, 1, 1, -1]
GOLDEN = bytes.fromhex("0a07152b48cb")
GOLDEN_SUMS = [-2, -6, 2, 0, 2, 0, 2, 0, 0]


def drawn(count: int, ties: float) -> list[int]:
    rng = stream(0, "signs", count)
    return [0 if rng.random() < ties else rng.choice((-1, 1)) for _ in range(count)]


def by_hand(seed: int, size: int, signs: list[int]) -> list[int]:
    """Return the sums, added in the other order."""
    whole = 8 * math.ceil(size / 8)
    terms = [s * noise_signs(seed, i, whole)[:size].astype(int) for i, s in enumerate(signs)]
    return sum(reversed(terms), np.zeros(size, int)).tolist()


@given(SIGNS, st.integers(0, 255), st.integers(1, 40))
@example([], 0, 1)
@example([0] * 50, 255, 8)
def test_a_section_gives_signs_and_sums_back(signs: list[int], seed: int, size: int) -> None:
    replay = Replay(seed, size, signs)
    found = Replay.read(replay.section(), len(signs), size)
    assert found.signs == signs
    assert found.seed == seed
    assert found.sums.tolist() == replay.sums.tolist() == by_hand(seed, size, signs)


def test_exact_bytes() -> None:
    # Golden bytes of format 1. An old line is never edited.
    assert Replay(7, 9, SOME).section() == GOLDEN
    assert Replay.read(GOLDEN, len(SOME), 9).sums.tolist() == GOLDEN_SUMS


@pytest.mark.parametrize("count", [64, 256, 4096])
def test_a_sign_takes_a_bit_where_there_are_no_ties(count: int) -> None:
    section = Replay(3, 13, drawn(count, 0.0)).section()
    assert 8 * (len(section) - HEAD_BYTES) <= 1.1 * count
    # The highest signs may be zeros.
    assert 8 * (len(section) - HEAD_BYTES) > count - 16


@pytest.mark.parametrize("ties", [0.1, 0.5, 0.9])
def test_ties_take_the_information_that_they_have(ties: float) -> None:
    signs = drawn(2000, ties)
    share = signs.count(0) / len(signs)
    entropy = -share * math.log2(share) - (1 - share) * math.log2((1 - share) / 2)
    bits = 8 * (len(Replay(3, 13, signs).section()) - HEAD_BYTES)
    assert bits <= 1.01 * len(signs) * entropy + 8


def test_what_is_added_one_by_one_is_what_is_given_at_once() -> None:
    replay = Replay(9, 21)
    for sign in SOME:
        replay.add(sign)
    assert replay.sums.tolist() == Replay(9, 21, list(SOME)).sums.tolist()
    assert replay.noise(0).tolist() == noise_signs(9, len(SOME), 24)[:21].tolist()


@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_a_program_draws_the_same_sums(ties: float) -> None:
    signs = drawn(96, ties)
    part = RECIPES["tinylora replayed"].adapter
    assert part is not None
    size = sum(rows * columns for rows, columns in part.shapes)
    replay = Replay(200, size, signs)
    section = b"\xa8" + replay.section()
    names = {"coded": section, "numpy": np, "hashlib": hashlib}
    exec("\n".join(_sums(part)), names)
    assert names["sums"][:size].tolist() == replay.sums.tolist()
    tensors = decode_numbers(section, part.shapes, part.numbers)
    flat = torch.tensor(names["sums"][:size]) * 2 ** (section[0] / 8 - 24)
    assert np.array_equal(np.concatenate([t.reshape(-1) for t in tensors]), flat.numpy())


def test_numbers_are_the_sums_in_steps_in_the_order_of_the_shapes() -> None:
    shapes, way = [(2, 3), (1, 4)], NumbersCode(coder="replay", signs=len(SOME))
    replay = Replay(1, 10, list(SOME))
    found = decode_numbers(b"\x9b" + replay.section(), shapes, way)
    assert [tensor.shape for tensor in found] == shapes
    flat = np.concatenate([tensor.reshape(-1) for tensor in found])
    assert flat.dtype == np.float32
    assert np.array_equal(flat, replay.sums.astype(np.float32) * np.float32(step_of(0x9B)))


@given(st.binary(max_size=14), st.integers(0, 20))
@example(b"", 3)
@example(b"\0\0", 3)
@example(b"\0\0\x80", 3)
def test_hostile_bytes_end_in_the_error_or_in_numbers(noise: bytes, count: int) -> None:
    way, shapes = NumbersCode(coder="replay", signs=count), [(2, 4), (2, 1)]
    try:
        found = decode_numbers(noise, shapes, way)
    except PayloadError as error:
        assert str(error)
    else:
        assert [tensor.shape for tensor in found] == shapes


def test_a_section_that_is_cut_or_longer_or_of_other_noise_is_refused() -> None:
    replay = Replay(7, 9, SOME)
    section = replay.section()
    for bad in (section[:2], section[:-1], section + b"\1", section[:3] + b"\0" + section[3:]):
        with pytest.raises(PayloadError):
            Replay.read(bad, len(SOME), 9)
    with pytest.raises(PayloadError, match="end of the replay"):
        Replay.read(section, len(SOME) - 1, 9)
    with pytest.raises(PayloadError, match="checksum"):
        Replay.read(bytes([section[0], 8]) + section[2:], len(SOME), 9)
    with pytest.raises(PayloadError, match="tie byte"):
        Replay.read(section[:2] + b"\x80" + section[3:], len(SOME), 9)


def test_most_single_damages_are_noticed() -> None:
    section = Replay(7, 9, SOME).section()
    seen = 0
    for at in range(8 * len(section)):
        bad = bytearray(section)
        bad[at // 8] ^= 1 << at % 8
        try:
            Replay.read(bytes(bad), len(SOME), 9)
        except PayloadError:
            seen += 1
    assert seen >= 0.9 * 8 * len(section)


def test_a_program_says_how_its_numbers_are_coded() -> None:
    recipe = RECIPES["tinylora replayed"]
    part = recipe.adapter
    assert part is not None
    size = sum(rows * columns for rows, columns in part.shapes)
    payload = b"\xa8" + Replay(1, size, drawn(96, 0.2)).section()
    program = build(recipe, payload)
    assert program.codecs == {"adapter": "replay"}
    assert program.sections["scales"] == 1 + HEAD_BYTES
    assert sum(program.sections.values()) == len(payload) + len(program.script)
    assert [t.shape for t in decode(recipe, payload).tensors] == list(part.shapes)
