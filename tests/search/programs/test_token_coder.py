import hashlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.oracles import ideal_bits
from kilobit.search.programs import token_coder
from kilobit.search.programs.text import PayloadError
from kilobit.search.programs.token_coder import (
    LADDER,
    MAX_TOKENS,
    MAX_TOKENS_PER_BYTE,
    CodingError,
    NextLogits,
    decode_tokens,
    decoder_source,
    encode_tokens,
    table_of,
)

VOCABULARY = 50


def fake(vocabulary: int = VOCABULARY, spread: float = 3.0) -> NextLogits:
    """Return a model whose logits depend on all ids before and on nothing else."""

    def logits(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(repr(list(ids)).encode()).digest()[:8])
        return np.random.default_rng(seed).normal(0, spread, vocabulary).astype(np.float32)

    return logits


def likely(count: int, model: NextLogits, seed: int = 0) -> list[int]:
    """Return `count` tokens drawn from the model after the start token 1."""
    rng, ids = np.random.default_rng(seed), [1]
    for _ in range(count):
        ids.append(int(np.argmax(model(ids) + rng.gumbel(size=len(model(ids))))))
    return ids[1:]


class Counted:
    def __init__(self, model: NextLogits) -> None:
        self.model, self.calls = model, 0

    def __call__(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        self.calls += 1
        return self.model(ids)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, VOCABULARY - 1), max_size=40),
    st.integers(0, VOCABULARY - 1),
    st.floats(0, 30),
)
def test_a_section_decodes_to_its_ids(ids: list[int], start: int, spread: float) -> None:
    model = Counted(fake(spread=spread))
    section = encode_tokens(ids, start, model)
    assert model.calls == 2 * len(ids)
    assert decode_tokens(section, start, model) == ids


@pytest.mark.parametrize("count", [0, 1, 127, 128, 600])
def test_every_length_decodes(count: int) -> None:
    ids = likely(count, fake())
    section = encode_tokens(ids, 1, fake())
    assert decode_tokens(section, 1, fake()) == ids
    assert section[:2] == bytes([(1 + sum(ids)) % 256, count if count < 128 else count % 128 + 128])


def test_exact_bytes_of_small_sections() -> None:
    # Golden bytes: checksum, count, stream from last to first. An old line is never edited.
    assert encode_tokens([], 1, fake()) == b"\x01\x00"
    assert encode_tokens([300], 0, fake(400, 0.0)).hex() == "2c01c0"
    assert encode_tokens([7, 7, 7, 49, 0], 1, fake()).hex() == "4705c116939a3aec67"
    assert encode_tokens(likely(20, fake()), 1, fake()).hex() == "b214b6544d956ffa24"


@pytest.mark.parametrize(("vocabulary", "spread"), [(2, 1.0), (256, 0.0), (4096, 0.0), (50, 3.0)])
def test_a_section_costs_its_tables_bits(vocabulary: int, spread: float) -> None:
    model = fake(vocabulary, spread)
    ids = likely(64, model)
    bits = 0.0
    for place, token in enumerate(ids):
        table = table_of(model([1, *ids[:place]]))
        weights = np.array([*LADDER, 0], float)[table]
        share = weights[token] * (2**24 - vocabulary) // weights.sum() + 1
        bits -= np.log2(share / 2**24)
    stream_bits = 8 * (len(encode_tokens(ids, 1, model)) - 2)
    assert bits - 2 < stream_bits < bits + 9


def test_a_large_vocabulary_costs_little_more_than_the_model_says() -> None:
    def model(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        logits = fake(150_000, 3.0)(ids)
        logits[: 3 * len(ids)] += 9
        return logits

    overheads = []
    for seed in range(3):
        ids = likely(30, model, seed)
        section = encode_tokens(ids, 1, model)
        overheads.append(8 * len(section) - ideal_bits(ids, 1, model))
        assert overheads[-1] < 40
        assert ideal_bits(ids, 1, model) > 150
    assert np.mean(overheads) < 24 + 0.02 * ideal_bits(ids, 1, model)


def test_ideal_bits_of_equal_logits_are_the_logarithm_of_the_vocabulary() -> None:
    assert ideal_bits([3, 4, 5], 0, fake(64, 0.0)) == pytest.approx(18)
    assert ideal_bits([], 0, fake()) == 0


def test_one_bit_of_damage_ends_in_the_error_or_is_rarely_not_seen() -> None:
    results = {"error": 0, "same": 0, "other": 0}
    for seed in range(6):
        ids = likely(30, fake(), seed)
        section = encode_tokens(ids, 1, fake())
        for bit in range(8 * len(section)):
            damaged = bytearray(section)
            damaged[bit // 8] ^= 1 << bit % 8
            model = Counted(fake())
            try:
                found = decode_tokens(bytes(damaged), 1, model)
            except PayloadError as error:
                assert str(error)
                results["error"] += 1
            else:
                # The lowest bits of the stream's last byte may say nothing.
                assert found != ids or bit // 8 == 2
                results["same" if found == ids else "other"] += 1
            assert model.calls <= MAX_TOKENS_PER_BYTE * len(section)
    assert results["error"] > 500
    assert results["same"] < 20
    assert results["other"] < 0.02 * sum(results.values())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00\xff",
        b"\x01\x80\x00",  # a count in more bytes than it needs
        b"\x00\xff\xff\xff\x01",
        b"\x00\xe0\xd4\x03",  # 60,000 tokens
        b"\x00\x81\x80\x04" + bytes(1000),  # 65,537
        b"\x02\x05" + b"\xff" * 8,
    ],
)
def test_what_is_no_section_is_refused_after_few_calls(data: bytes) -> None:
    model = Counted(fake())
    with pytest.raises(PayloadError):
        decode_tokens(data, 1, model)
    assert model.calls <= 5


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=8), st.data())
def test_hostile_bytes_end_in_the_error_or_a_decode(noise: bytes, data: st.DataObject) -> None:
    section = encode_tokens(likely(12, fake()), 1, fake())
    cut = section[: data.draw(st.integers(0, len(section) - 1))]
    for hostile in (noise, cut, cut + noise):
        model = Counted(fake(4, 2.0))
        try:
            decode_tokens(hostile, 1, model)
        except PayloadError as error:
            assert str(error)
        assert model.calls <= MAX_TOKENS_PER_BYTE * len(hostile)


def test_another_model_is_noticed() -> None:
    section = encode_tokens(likely(30, fake()), 1, fake())
    with pytest.raises(PayloadError, match="checksum"):
        decode_tokens(section, 1, fake(spread=2.9))


def test_a_model_without_doubt_gets_one_byte_for_128_tokens() -> None:
    def certain(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        return np.array([0, 1000, 0], np.float32)

    section = encode_tokens([1] * 1000, 1, certain)
    assert len(section) == 8
    assert decode_tokens(section, 1, certain) == [1] * 1000


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([0.0, np.nan, 1.0], "highest logit is nan"),
        ([0.0, np.inf, 1.0], "highest logit is inf"),
        ([-np.inf, -np.inf], "highest logit is -inf"),
        ([1.0], "shape"),
        ([[1.0, 2.0]], "shape"),
    ],
)
def test_logits_that_are_no_distribution_are_refused(logits: list[float], message: str) -> None:
    def model(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        return np.array(logits, np.float32)

    with pytest.raises(CodingError, match=message):
        encode_tokens([0], 1, model)
    with pytest.raises(PayloadError, match=message):
        decode_tokens(b"\x01\x01", 1, model)


def test_ids_outside_the_vocabulary_and_too_many_are_refused() -> None:
    for token in (-1, VOCABULARY):
        with pytest.raises(CodingError, match=f"id {token} is not one"):
            encode_tokens([token], 1, fake())
    with pytest.raises(CodingError, match="65537 tokens"):
        encode_tokens([0] * (MAX_TOKENS + 1), 1, fake())


def test_a_model_that_forbids_a_token_can_still_code_it() -> None:
    def model(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        return np.array([0, -np.inf], np.float32)

    section = encode_tokens([1], 0, model)
    assert len(section) == 5
    assert decode_tokens(section, 0, model) == [1]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (6, "second run of the model fails: the checksum"),
        (5 + 256, "other tokens"),
    ],  # a checksum misses 256
)
def test_a_model_that_changes_between_two_runs_is_an_error(second: int, message: str) -> None:
    def certain(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        return 100 * np.eye(512, dtype=np.float32)[second if model.calls > 1 else 5]

    model = Counted(certain)
    with pytest.raises(CodingError, match=message):
        encode_tokens([5], 1, model)


def test_tables_do_not_change_with_noise_in_the_seventh_digit() -> None:
    rng = np.random.default_rng(0)
    same = 0
    for place in range(4000):
        logits = fake(1000)([place])
        noisy = (logits + rng.uniform(-1e-6, 1e-6, 1000)).astype(np.float32)
        same += np.array_equal(table_of(logits), table_of(noisy))
    assert same >= 0.999 * 4000


def test_tables_are_the_same_from_float32_and_float64_sums() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 1000)) / 8
    same = 0
    for _ in range(200):
        hidden = rng.normal(0, 3, 64)
        tables = [table_of(hidden.astype(t) @ weights.astype(t)) for t in (np.float32, np.float64)]
        same += np.array_equal(*tables)
    assert same >= 195


def test_the_programs_weights_are_the_tables() -> None:
    # 2.72**n by any library is nowhere near the edge of an integer, except where it is exact.
    powers = 2.72 ** np.arange(-30.0, len(LADDER))
    assert list(powers[30:] // 1) == list(reversed(LADDER))
    assert not (powers[:30] // 1).any()
    edges = powers[31:] % 1
    assert edges.min() > 0.01 > edges.max() - 1
    assert edges.max() < 0.99
    assert all(isinstance(weight, int) for weight in LADDER)


def test_the_counted_decoder_is_short() -> None:
    python_minifier = pytest.importorskip("python_minifier")
    for count in (30, 31, 32, 600):
        section = encode_tokens(likely(count, fake()), 1, fake())
        for cache, longest in (("none", 310), ("past_key_values", 370)):
            source = decoder_source(1, section, cache, "")
            small = python_minifier.minify(
                source, rename_globals=True, remove_literal_statements=True
            )
            assert len(small) < longest


def test_the_counted_decoder_of_a_damaged_header_is_refused() -> None:
    with pytest.raises(PayloadError):
        decoder_source(0, b"\x00\xff", "none", "")


def test_the_module_needs_no_torch() -> None:
    code = "import sys, kilobit.search.programs.token_coder; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert token_coder.IMPORTS == ("numpy", "torch")
