import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from search.programs.payload import AdapterFile, Content, decode, encode

from search.programs.postprocess import STEPS, postprocess
from search.programs.text import _CODECS, CODECS, MAX_TEXT_BYTES, PayloadError, compress, decompress

VALUES = arrays(np.float16, st.integers(0, 40), elements=st.floats(-60000, 60000, width=16))
CONTENTS = st.builds(
    Content,
    prompt=st.text(max_size=200),
    max_new_tokens=st.none() | st.integers(1, 2**31),
    postprocess=st.lists(st.sampled_from(STEPS), max_size=4).map(tuple),
    adapter=st.none()
    | st.builds(
        AdapterFile,
        header=st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
        values=VALUES,
    ),
)


def same(a: Content, b: Content) -> bool:
    if (a.prompt, a.max_new_tokens, a.postprocess) != (b.prompt, b.max_new_tokens, b.postprocess):
        return False
    if a.adapter is None or b.adapter is None:
        return a.adapter is b.adapter
    bits = [x.adapter.values.astype(np.float16).tobytes() for x in (a, b) if x.adapter]
    return a.adapter.header == b.adapter.header and bits[0] == bits[1]


@given(CONTENTS)
def test_a_payload_decodes_to_what_was_encoded(content: Content) -> None:
    payload, codecs = encode(content)
    assert same(decode(payload), content)
    assert set(codecs.values()) <= set(CODECS)


def test_no_program_costs_nothing() -> None:
    assert encode(Content()) == (b"", {})


def test_exact_bytes_of_small_payloads() -> None:
    # Golden bytes: flags, settings, length, text. An old line is never edited.
    assert encode(Content(prompt="Number:\n"))[0] == b"\x00\x08Number:\n"
    assert encode(Content(postprocess=("last_number",)))[0] == b"\x08\x00\x01\x00\x00"
    assert encode(Content(prompt="a", max_new_tokens=200))[0] == b"\x08\xc8\x01\x00\x01a"
    adapter = AdapterFile({"r": 1}, np.array([1.0, -2.0], np.float16))
    assert encode(Content(adapter=adapter))[0] == b'\x10\x00\x07{"r":1}\x00<\x00\xc0'


def test_a_prompt_costs_what_its_best_codec_makes_of_it() -> None:
    text = "Q: Emma has 10 apples. She loses 2. How many apples does Emma have now?\nA: 8\n" * 4
    sizes = {name: len(code(text.encode())) for name, (code, _) in _CODECS.items()}
    payload, codecs = encode(Content(prompt=text))
    assert len(payload) == 2 + min(sizes.values())
    assert sizes[codecs["prompt"]] == min(sizes.values()) < sizes["stored"] / 3


@given(st.binary(max_size=600))
@example(b"\x28\xb5\x2f\xfd" * 20)
def test_every_codec_returns_its_input(data: bytes) -> None:
    for name, (code, _) in _CODECS.items():
        assert decompress(name, code(data)) == data
    name, best = compress(data)
    assert len(best) <= len(data)
    assert decompress(name, best) == data


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_bomb_is_refused_before_it_fills_memory(codec: str) -> None:
    bomb = _CODECS[codec][0](bytes(MAX_TEXT_BYTES + 1000))
    assert len(bomb) < 100_000
    with pytest.raises(PayloadError):
        decompress(codec, bomb)


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_cut_or_longer_stream_is_refused(codec: str) -> None:
    data = _CODECS[codec][0](b"the dog sees the cat and the cat sees the dog")
    for damaged in (data[:-1], data[: len(data) // 2], data + b"\x00x"):
        with pytest.raises(PayloadError):
            decompress(codec, damaged)


ADAPTER = AdapterFile({"r": 1}, np.arange(20, dtype=np.float16))
REAL = encode(Content("Answer with a number.\n" * 3, 5, ("lower",), ADAPTER))[0]


@settings(max_examples=500)
@given(st.binary(max_size=60), st.data())
def test_hostile_payloads_end_in_the_error_or_a_decode(noise: bytes, data: st.DataObject) -> None:
    real = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 3))):
        real[data.draw(st.integers(0, len(real) - 1))] = data.draw(st.integers(0, 255))
    for payload in (noise, bytes(real), bytes(real[: data.draw(st.integers(0, len(real)))])):
        try:
            decode(payload)
        except PayloadError as error:
            assert str(error)


def test_numbers_that_are_not_finite_are_refused() -> None:
    adapter = AdapterFile({}, np.array([np.inf], np.float16))
    with pytest.raises(ValueError, match="not finite"):
        encode(Content(adapter=adapter))


@pytest.mark.parametrize(
    ("steps", "text", "result"),
    [
        (("last_number",), "I had 12 and now 7.5 apples", "7.5"),
        (("last_number",), "from 3 to -4", "-4"),
        (("last_number",), "none", "none"),
        (("last_word",), "it is red", "red"),
        (("last_word",), "  ", "  "),
        (("first_word", "lower"), "YES indeed", "yes"),
        (("no_final_period",), "Done. ", "Done"),
        ((), " as it is ", " as it is "),
    ],
)
def test_postprocessing(steps: tuple[str, ...], text: str, result: str) -> None:
    assert postprocess(text, steps) == result


def test_headers_are_json() -> None:
    payload, _ = encode(Content(adapter=AdapterFile({"b": 1, "a": [2]}, np.zeros(0, np.float16))))
    assert json.dumps({"a": [2], "b": 1}, separators=(",", ":")).encode() in payload
