import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kilobit.search.programs.numbers import (
    LARGEST,
    MAX_PACKED,
    Integers,
    NumbersCode,
    decode_numbers,
    encode_numbers,
    quantise,
    shortest_body,
    step_code,
    step_of,
)
from kilobit.search.programs.program import WAYS
from kilobit.search.programs.text import PayloadError

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 9))
INTEGERS = SHAPES.flatmap(
    lambda shape: st.sampled_from([0, 1, 3, 127, LARGEST]).flatmap(
        lambda most: arrays(np.int32, shape, elements=st.integers(-most, most))
    )
)
STEP = 168  # 2 ** (168 / 8 - 24) is an eighth


def shapes_of(integers: list[Integers]) -> list[tuple[int, int]]:
    return [(i.shape[0], i.shape[1]) for i in integers]


def best_bytes(integers: list[Integers]) -> int:
    coded = (encode_numbers(STEP, integers, way) for way in WAYS)
    return min(len(data) for data in coded if data is not None)


@given(st.lists(INTEGERS, min_size=1, max_size=4), st.integers(0, 255))
@example([np.zeros((1, 1), np.int32)], 0)
@example([np.full((3, 1), LARGEST, np.int32), np.zeros((2, 5), np.int32)], 255)
@example([np.array([[LARGEST] + [0] * 60], np.int32)], 7)
def test_every_way_gives_the_numbers_back(integers: list[Integers], code: int) -> None:
    for way in WAYS:
        data = encode_numbers(code, integers, way)
        if data is None:
            assert way.coder == "packed"
            assert max(np.abs(i).max() for i in integers) > 127
            continue
        found = decode_numbers(data, shapes_of(integers), way)
        for numbers, expected in zip(found, integers, strict=True):
            assert numbers.dtype == np.float32
            assert np.array_equal(numbers, expected.astype(np.float32) * np.float32(step_of(code)))


@given(INTEGERS, INTEGERS, st.integers(0, 255), st.integers(0, 255))
def test_the_two_factors_of_a_product_have_a_step_each(
    first: Integers, second: Integers, code: int, other: int
) -> None:
    integers = [first, second]
    for way in (one.model_copy(update={"steps": "factor"}) for one in WAYS):
        data = encode_numbers(code, integers, way, bytes([other]))
        if data is None:
            continue
        plain = encode_numbers(code, integers, way.model_copy(update={"steps": "one"}))
        assert data == bytes([other]) + plain
        found = decode_numbers(data, shapes_of(integers), way)
        for numbers, whole, step in zip(found, integers, (other, code), strict=True):
            assert np.array_equal(numbers, whole.astype(np.float32) * np.float32(step_of(step)))


FACTORS = NumbersCode(coder="gaussian", scales="row", steps="factor")


def test_exact_bytes_with_a_step_for_each_factor() -> None:
    # Golden bytes of format 1. An old line is never edited.
    integers = [GOLDEN_INTEGERS[0], GOLDEN_INTEGERS[1].astype(np.int32)]
    golden = bytes.fromhex("a0a84e00653fb4f887")
    assert encode_numbers(STEP, integers, FACTORS, b"\xa0") == golden
    found = decode_numbers(golden, shapes_of(integers), FACTORS)
    assert np.array_equal(found[0], integers[0] / np.float32(16))
    assert np.array_equal(found[1], integers[1] / np.float32(8))


@given(st.binary(max_size=12))
@example(b"")
@example(b"\xa0")
@example(b"\xa0\xa8")
def test_hostile_bytes_with_a_step_for_each_factor_end_in_the_error_or_in_numbers(
    noise: bytes,
) -> None:
    shapes = [(2, 4), (2, 1)]
    for way in (one.model_copy(update={"steps": "factor"}) for one in WAYS):
        try:
            found = decode_numbers(noise, shapes, way)
        except PayloadError as error:
            assert str(error)
        else:
            assert [tensor.shape for tensor in found] == shapes


GOLDEN_INTEGERS = [np.array([[0, 1, -2, 3], [0, 0, 0, 0]], np.int32), np.array([[5], [-1]])]


@pytest.mark.parametrize(
    ("coder", "scales", "golden"),
    [
        ("packed", "one", "a80b02b855c2d8"),
        ("laplace", "one", "a846a4bc618f"),
        ("laplace", "row", "a84a00653ebb0d8c"),
        ("gaussian", "one", "a8509082e886"),
        ("gaussian", "row", "a84e00653fb4f887"),
    ],
)
def test_exact_bytes(coder: Any, scales: Any, golden: str) -> None:
    # Golden bytes of format 1. An old line is never edited.
    way, integers = NumbersCode(coder=coder, scales=scales), [*GOLDEN_INTEGERS]
    integers[1] = integers[1].astype(np.int32)
    assert encode_numbers(STEP, integers, way) == bytes.fromhex(golden)
    found = decode_numbers(bytes.fromhex(golden), shapes_of(integers), way)
    assert np.array_equal(found[0], integers[0] / np.float32(8))


def test_a_packed_section_is_as_long_as_its_number() -> None:
    rng = np.random.default_rng(0)
    for most, count in ((1, 1), (1, 100), (7, 64), (127, 300)):
        integers = rng.integers(-most, most + 1, (1, count)).astype(np.int32)
        integers[0, 0], integers[0, -1] = most, most  # the highest digit is the base's highest
        data = encode_numbers(STEP, [integers], NumbersCode(coder="packed"))
        assert data is not None
        base = 2 * most + 1
        at_most = 2 + math.ceil(((base**count) - 1).bit_length() / 8)
        assert at_most - 1 <= len(data) <= at_most


def test_a_range_coded_section_is_at_most_a_byte_longer_than_its_information() -> None:
    # 1000 zeros among the spread of 1 step: 2 bytes of head, and -log2 of the middle for each.
    way = NumbersCode(coder="laplace")
    integers = np.tile(np.array([[-1, 0, 0, 1]], np.int32), (1, 250))
    data = encode_numbers(STEP, [integers], way)
    assert data is not None
    spread = 2.0 ** (data[1] / 16 - 4)
    middle = 1 - math.exp(-0.5 / spread)
    one = (math.exp(-0.5 / spread) - math.exp(-1.5 / spread)) / 2
    bits = -500 * math.log2(middle) - 500 * math.log2(one)
    assert 16 + bits <= 8 * len(data) <= 16 + bits + 9


@given(arrays(np.int32, (1, 13), elements=st.integers(-LARGEST, LARGEST)))
@example(np.full((1, 13), LARGEST, np.int32))
@example(np.array([[LARGEST, *[0] * 12]], np.int32))
def test_thirteen_numbers_take_34_bytes_at_most(integers: Integers) -> None:
    assert best_bytes([integers]) <= 34


def test_thirteen_numbers_in_steps_of_their_own_size_take_few_bytes() -> None:
    numbers = np.random.default_rng(0).normal(size=(1, 13)).astype(np.float32)
    assert best_bytes(quantise([numbers], 0.125)[1]) <= 12
    assert best_bytes(quantise([numbers], 1.0)[1]) <= 7


def excess(kind: str, bits: int, count: int, seed: int) -> float:
    """Return by how much a section is longer than the entropy of its own histogram."""
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        numbers, step = rng.normal(size=count), math.sqrt(2 * math.pi * math.e) / 2**bits
    else:
        numbers, step = rng.laplace(size=count), 2 * math.e / 2**bits
    integers = np.rint(numbers / step).astype(np.int32).reshape(4, -1)
    counts = np.unique(integers, return_counts=True)[1]
    entropy = -float(counts @ np.log2(counts / count))
    assert abs(entropy / count - bits) < 0.4
    return 8 * best_bytes([integers]) / entropy - 1


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_large_adapters_come_within_three_percent_of_their_entropy(kind: str, bits: int) -> None:
    assert np.mean([excess(kind, bits, 512, seed) for seed in range(10)]) < 0.03
    assert max(excess(kind, bits, 1024, seed) for seed in range(10)) < 0.03
    # The head and the tail of a small one weigh more.
    assert max(excess(kind, bits, 256, seed) for seed in range(10)) < 0.07


def test_rows_of_zeros_cost_a_byte_each_and_no_more() -> None:
    rng = np.random.default_rng(0)
    row = rng.integers(-40, 40, (1, 50)).astype(np.int32)
    way = NumbersCode(coder="laplace", scales="row")
    alone = encode_numbers(STEP, [row], way)
    padded = encode_numbers(STEP, [np.zeros((9, 50), np.int32), row], way)
    assert alone is not None
    assert padded is not None
    assert padded[1:10] == bytes(9)
    assert padded == alone[:1] + bytes(9) + alone[1:]


def test_the_stream_is_cut_to_the_fewest_bytes() -> None:
    rng = np.random.default_rng(0)
    for way in WAYS[1:]:
        for _ in range(20):
            integers = [rng.integers(-9, 10, (2, 20)).astype(np.int32)]
            data = encode_numbers(STEP, integers, way)
            assert data is not None
            head = 3 if way.scales == "row" else 2
            # No shorter stream says the same: its lowest byte goes, whatever the next one is.
            number = int.from_bytes(data[head:], "little")
            shorter = len(data) - head - 1
            for kept in (number >> 8, (number >> 8) + 1):
                body = kept.to_bytes(shorter + 1, "little")[:shorter]
                found = decoded(data[:head] + body, integers, way)
                assert found is None or not np.array_equal(found, decoded(data, integers, way))


def decoded(data: bytes, integers: list[Integers], way: NumbersCode) -> Any:
    try:
        return np.concatenate(decode_numbers(data, shapes_of(integers), way))
    except PayloadError:
        return None


def test_the_shortest_body_carries_into_higher_bytes() -> None:
    def decodes(body: bytes) -> bool:
        return body.ljust(4, b"\0") in (b"\x12\xff\xff\x80", b"\x13\0\0\0")

    assert shortest_body(b"\x12\xff\xff\x80", decodes) == b"\x13"


@pytest.mark.parametrize("way", WAYS)
def test_a_section_that_is_cut_or_longer_is_refused(way: NumbersCode) -> None:
    integers = [np.arange(-20, 20, dtype=np.int32).reshape(2, 20)]
    data, shapes = encode_numbers(STEP, integers, way), shapes_of(integers)
    assert data is not None
    for bad in (b"", data[:1]):
        with pytest.raises(PayloadError):
            decode_numbers(bad, shapes, way)
    for longer in (data + bytes(40), data + b"\xff" * 40):
        with pytest.raises(PayloadError, match=r"follow the end|longer than|invalid"):
            decode_numbers(longer, shapes, way)
    if way.coder != "packed":
        head = 3 if way.scales == "row" else 2
        with pytest.raises(PayloadError, match="follow the end"):
            decode_numbers(data[:head] + b"\0" + data[head:], shapes, way)


def test_packed_numbers_have_limits() -> None:
    packed = NumbersCode(coder="packed")
    assert encode_numbers(STEP, [np.zeros((1, MAX_PACKED + 1), np.int32)], packed) is None
    assert encode_numbers(STEP, [np.array([[128]], np.int32)], packed) is None
    with pytest.raises(PayloadError, match="longer than its numbers"):
        decode_numbers(b"\0\x03", [(1, MAX_PACKED + 1)], packed)
    with pytest.raises(PayloadError, match="odd base"):
        decode_numbers(b"\0\x02\x01", [(1, 4)], packed)


@given(st.floats(1e-300, 1e300))
def test_a_step_byte_is_the_nearest_step(step: float) -> None:
    code = step_code(step)
    assert 0 <= code <= 255
    ratio = math.log2(step) - math.log2(step_of(code))
    if step_of(0) <= step <= step_of(255):
        assert abs(ratio) <= 1 / 16 + 1e-9
    else:
        assert code == (0 if step < 1 else 255)


@given(st.integers(0, 255))
def test_every_step_byte_names_itself(code: int) -> None:
    assert step_code(step_of(code)) == code


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf, math.nan])
def test_a_step_that_is_no_positive_number_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="a step is a positive number"):
        step_code(step)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    for numbers in ([[bad, 1.0]], [[1.0, bad]]):
        with pytest.raises(ValueError, match="not finite"):
            quantise([np.zeros((1, 2), np.float32), np.array(numbers, np.float32)], 1.0)


def test_a_step_too_small_for_the_largest_number_is_made_larger() -> None:
    numbers = np.array([[1000.0, 0.1]], np.float32)
    code, (integers,) = quantise([numbers], 1e-6)
    assert np.abs(integers).max() <= LARGEST
    assert step_of(code - 1) * LARGEST < 1000 <= step_of(code) * LARGEST
    with pytest.raises(ValueError, match="a number that is too large"):
        quantise([np.array([[1e9]], np.float32)], 1.0)


@given(arrays(np.float32, (2, 5), elements=st.floats(-100, 100, width=32)), st.floats(0.1, 4))
def test_quantised_numbers_are_at_most_half_a_step_away(numbers: Any, step: float) -> None:
    code, (integers,) = quantise([numbers], step)
    away = np.abs(integers * step_of(code) - numbers.astype(np.float64))
    assert away.max() <= step_of(code) * 0.50001


def test_numbers_are_those_that_torch_makes_of_the_integers() -> None:
    import torch

    integers = np.random.default_rng(0).integers(-LARGEST, LARGEST + 1, (8, 99)).astype(np.int32)
    for code in range(256):
        data = encode_numbers(code, [integers], WAYS[1]) if code == 0 else None
        ours = integers.astype(np.float32) * np.float32(step_of(code))
        theirs = torch.tensor(integers.tolist()) * 2 ** (code / 8 - 24)
        assert np.array_equal(ours, theirs.numpy())
        if data is not None:
            assert np.array_equal(decode_numbers(data, [(8, 99)], WAYS[1])[0], ours)


@pytest.mark.parametrize("shape", [(1 << 40, 1 << 40), (1 << 62, 4), (-1, 5)])
def test_shapes_that_no_memory_holds_are_an_error(shape: tuple[int, int]) -> None:
    with pytest.raises(PayloadError, match="not enough memory for numbers of these shapes"):
        decode_numbers(b"\0\1\2", [shape], NumbersCode(coder="laplace"))
