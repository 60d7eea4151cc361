"""The stream of tokens whose tables change: round trips, its length, and what damage does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilobit.search.programs.text import PayloadError
from kilobit.search.programs.token_coder import CodingError, Logits, TokenReader, TokenWriter


def logits_of(seed: int, place: int, vocabulary: int, scale: float) -> Logits:
    rng = np.random.default_rng([seed, place])
    return (scale * rng.standard_normal(vocabulary)).astype(np.float32)


def written(tokens: list[int], seed: int, vocabulary: int, scale: float) -> bytes:
    writer = TokenWriter()
    for place, token in enumerate(tokens):
        writer.write(token, logits_of(seed, place, vocabulary, scale))
    return writer.section()


def read(section: bytes, count: int, seed: int, vocabulary: int, scale: float) -> list[int]:
    reader = TokenReader(section)
    return [reader.read(logits_of(seed, place, vocabulary, scale)) for place in range(count)]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    count=st.integers(0, 400),
    seed=st.integers(0, 1 << 20),
    vocabulary=st.integers(2, 40),
    scale=st.sampled_from([0.1, 2.0, 12.0]),
    likely=st.booleans(),
)
def test_what_was_written_is_read(
    count: int, seed: int, vocabulary: int, scale: float, likely: bool
) -> None:
    rng = np.random.default_rng(seed)
    tokens = [
        int(logits_of(seed, place, vocabulary, scale).argmax())
        if likely
        else int(rng.integers(vocabulary))
        for place in range(count)
    ]
    section = written(tokens, seed, vocabulary, scale)
    assert read(section, count, seed, vocabulary, scale) == tokens


def test_the_length_is_that_of_the_probabilities() -> None:
    # Logits 0 and -inf-like: two tokens of equal weight, so a token costs one bit.
    flat = np.array([0.0, 0.0, -99.0], np.float32)
    writer = TokenWriter()
    for place in range(800):
        writer.write(place * 7 % 3 % 2, flat)
    assert 100 <= len(writer.section()) <= 101


def test_a_stream_without_the_last_byte_decodes_to_something_else() -> None:
    tokens = [place % 5 for place in range(300)]
    section = written(tokens, 1, 8, 1.0)
    # The last byte of the coder's stream is the first of the section.
    with pytest.raises((AssertionError, PayloadError)):
        assert read(section[1:], 300, 1, 8, 1.0) == tokens


def test_only_the_tables_of_the_last_words_are_kept() -> None:
    writer = TokenWriter()
    for place in range(5000):
        writer.write(place % 8, logits_of(0, place, 8, 1.0))
    assert len(writer._last) < 200


@pytest.mark.parametrize("token", [-1, 3])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(CodingError, match="not one of the model's 3 tokens"):
        TokenWriter().write(token, np.zeros(3, np.float32))


def test_logits_that_are_not_finite_are_refused_by_both() -> None:
    bad = np.full(3, np.nan, np.float32)
    with pytest.raises(CodingError, match="highest logit"):
        TokenWriter().write(0, bad)
    with pytest.raises(PayloadError, match="highest logit"):
        TokenReader(b"\1\2").read(bad)
