import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kilobit.search.programs.text import (
    _CODECS,
    CODECS,
    MAX_TEXT_BYTES,
    GeneralCodec,
    PayloadError,
    compress,
    decompress,
)

TEXT = b"Answer with a number. Answer with a number.\n"


@given(st.binary(max_size=600))
@example(b"")
@example(b"\x28\xb5\x2f\xfd" * 20)
def test_every_codec_returns_its_input(data: bytes) -> None:
    coded = compress(data)
    assert set(coded) == set(CODECS)
    assert coded["stored"] == data
    for name in CODECS:
        assert decompress(name, coded[name]) == data


@pytest.mark.parametrize(
    ("codec", "golden"),
    [
        ("stored", TEXT.hex()),
        ("deflate", "73cc2b2e4f2d5228cf2cc9504854c82bcd4d4a2dd25370c426ca0500"),
        ("zstd", "0000ed0000b8416e7377657220776974682061206e756d6265722e200a0100f29b4d"),
        ("brotli", "1b2b00f8a515405c8234218528b28d2ea1857212c20b2cc3cd09"),
        ("xz", "e0002b001f5d00209b8a67a570bb53c7fa61c585f4f52f122830fa2a0cddaac72ef6a530000000"),
    ],
)
def test_exact_bytes(codec: GeneralCodec, golden: str) -> None:
    # Golden bytes of format 1: these have to decode for ever. An old line is never edited.
    assert decompress(codec, bytes.fromhex(golden)) == TEXT
    # Another version of a library may find shorter ones, never longer.
    assert len(compress(TEXT)[codec]) <= len(golden) // 2


def test_repetition_is_worth_a_codec() -> None:
    text = "Q: Emma has 10 apples. She loses 2. How many apples does Emma have now?\nA: 8\n" * 4
    sizes = {name: len(data) for name, data in compress(text.encode()).items()}
    assert min(sizes.values()) < sizes["stored"] / 3


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_bomb_is_refused_before_it_fills_memory(codec: GeneralCodec) -> None:
    bomb = _CODECS[codec][0](bytes(2 * MAX_TEXT_BYTES))
    assert len(bomb) < 300_000
    tracemalloc.start()
    with pytest.raises(PayloadError):
        decompress(codec, bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MAX_TEXT_BYTES


@pytest.mark.parametrize("codec", CODECS)
def test_a_text_of_the_largest_size_goes_through_and_a_larger_one_does_not(
    codec: GeneralCodec,
) -> None:
    largest = bytes(MAX_TEXT_BYTES)
    assert decompress(codec, _CODECS[codec][0](largest)) == largest
    with pytest.raises(PayloadError, match=r"expands beyond|does not end|not complete"):
        decompress(codec, _CODECS[codec][0](largest + b"\0"))


def test_more_than_a_payload_may_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="more than a payload may hold"):
        compress(bytes(MAX_TEXT_BYTES + 1))


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_cut_or_longer_stream_is_refused(codec: GeneralCodec) -> None:
    data = _CODECS[codec][0](b"the dog sees the cat and the cat sees the dog")
    for damaged in (b"", data[:-1], data[: len(data) // 2], data + b"\x00x", data + data):
        with pytest.raises(PayloadError):
            decompress(codec, damaged)
