import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilobit.search.programs.numbers import NumbersCode, encode_numbers
from kilobit.search.programs.program import (
    WAYS,
    Program,
    build,
    build_printing,
    choose_numbers,
    choose_text,
    decode,
    text_part,
)
from kilobit.search.programs.recipe import AdapterPart, Recipe
from kilobit.search.programs.script import script
from kilobit.search.programs.text import CODECS, PayloadError, TextCodec, compress
from kilobit.search.settings import Length
from tests.support.recipes import BARE, with_adapter, with_prompt

TEXT = "Q: Emma has 10 apples. She loses 2. How many apples does Emma have now?\nA: 8\n" * 2
CODED = compress(TEXT.encode())


def prompt_program(codec: TextCodec) -> Program:
    recipe = BARE.model_copy(update={"prompt": text_part(codec, CODED[codec])})
    return build(recipe, CODED[codec])


def lora(way: NumbersCode) -> tuple[Recipe, bytes, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    integers = [rng.integers(-9, 10, s).astype(np.int32) for s in ((2, 32), (2, 48))]
    data = encode_numbers(160, integers, way)
    assert data is not None
    return with_adapter(BARE, "lora", way), data, [i / np.float32(16) for i in integers]


def test_bits_are_those_of_the_two_files() -> None:
    program = prompt_program("brotli")
    assert program.payload_bits == 8 * len(CODED["brotli"])
    assert program.program_bits == 8 * (len(program.script) + len(program.payload))
    assert program.script == script(program.recipe)
    both = hashlib.sha256(program.script).digest() + hashlib.sha256(program.payload).digest()
    assert program.digest == hashlib.sha256(both).hexdigest()[:16]


def test_no_program_has_an_empty_payload() -> None:
    program = build(BARE, b"")
    assert (program.payload_bits, program.codecs) == (0, {})
    assert program.sections == {"script": len(program.script)}
    assert (decode(BARE, b"").prompt, decode(BARE, b"").tensors) == ("", [])
    with pytest.raises(PayloadError, match="1 bytes follow the end"):
        decode(BARE, b"x")


def test_the_call_of_the_chat_template_is_counted_apart() -> None:
    plain = with_prompt(BARE, "stored")
    chat: dict[str, Any] = {"chat": True, "template": {"enable_thinking": False}, "opening": "<x>"}
    program = build(plain.model_copy(update=chat), b"x" * 40)
    without = len(script(plain))
    assert program.sections == {
        "script": without,
        "template": len(program.script) - without,
        "prompt": 40,
    }
    assert program.sections["template"] > 50
    short = replace(program, script=b"#")
    assert short.sections == {"script": 1, "template": 0, "prompt": 40}


@pytest.mark.parametrize("codec", CODECS)
def test_a_prompt_is_decoded_by_the_codec_of_its_recipe(codec: TextCodec) -> None:
    program = prompt_program(codec)
    assert decode(program.recipe, program.payload).prompt == TEXT
    assert program.codecs == {"prompt": codec}
    with pytest.raises(PayloadError):
        decode(program.recipe, program.payload[:-1])
    with pytest.raises(PayloadError, match="follow the end"):
        decode(program.recipe, program.payload + b"\0")


@pytest.mark.parametrize("way", WAYS)
def test_prompt_and_numbers_share_a_payload(way: NumbersCode) -> None:
    recipe, numbers, expected = lora(way)
    recipe = recipe.model_copy(update={"prompt": text_part("xz", CODED["xz"])})
    found = decode(recipe, CODED["xz"] + numbers)
    assert found.prompt == TEXT
    for tensor, wanted in zip(found.tensors, expected, strict=True):
        assert np.array_equal(tensor, wanted)
    program = build(recipe, CODED["xz"] + numbers)
    name = "packed" if way.coder == "packed" else f"{way.coder} {way.scales}"
    assert program.codecs == {"prompt": "xz", "adapter": name}
    # A step byte, and a base, a scale, or one scale for each of the two rows of both tensors.
    head = 5 if way.scales == "row" else 2
    assert program.sections == {
        "script": len(program.script),
        "prompt": len(CODED["xz"]),
        "scales": head,
        "numbers": len(numbers) - head,
    }


def test_what_the_model_coded_needs_the_model() -> None:
    section = b"\x10\x03abc"
    recipe = BARE.model_copy(update={"prompt": text_part("model", section), "start_token": 1})
    assert recipe.prompt is not None
    assert recipe.prompt.head == section[:4].hex()
    assert recipe.prompt.section_head() == section[:4] + b"\0"
    assert decode(recipe, section, lambda data: f"<{data.hex()}>").prompt == "<1003616263>"
    with pytest.raises(PayloadError, match="the prompt can't be decoded without the base model"):
        decode(recipe, section)


def test_a_prompt_that_is_no_text_is_refused() -> None:
    recipe = BARE.model_copy(update={"prompt": text_part("stored", b"\xff\xfe")})
    with pytest.raises(PayloadError, match="not UTF-8"):
        decode(recipe, b"\xff\xfe")


@settings(max_examples=60)
@given(st.text(min_size=1, max_size=400))
def test_the_shortest_text_is_chosen_with_or_without_its_decoder(text: str) -> None:
    coded = compress(text.encode())
    _, short = choose_text(coded, "payload", None)
    assert len(short) == min(map(len, coded.values()))
    codec, section = choose_text(coded, "program", None)
    programs = {
        name: build(BARE.model_copy(update={"prompt": text_part(name, data)}), data)
        for name, data in coded.items()
    }
    best = min(p.program_bits for p in programs.values())
    # The decoder is weighed in another program, in which a number may have a digit less.
    assert programs[codec].program_bits <= best + 16
    assert section == coded[codec]


@pytest.mark.parametrize("seed", range(6))
def test_the_shortest_way_of_numbers_is_chosen_with_or_without_its_decoder(seed: int) -> None:
    rng = np.random.default_rng(seed)
    part = with_adapter(BARE, "lora").adapter
    assert part is not None
    count = (3, 30, 300)[seed % 3]
    integers = [np.rint(rng.laplace(size=(2, count)) * 3).astype(np.int32) for _ in range(2)]
    if seed > 3:
        integers[0][:] = 0
    part = part.model_copy(update={"shapes": tuple(i.shape for i in integers)})

    def program(way: NumbersCode, data: bytes, part: AdapterPart) -> Program:
        adapter = part.model_copy(update={"numbers": way})
        return build(BARE.model_copy(update={"adapter": adapter}), data)

    coded = {way: encode_numbers(160, integers, way) for way in WAYS}
    programs = {w: program(w, data, part) for w, data in coded.items() if data is not None}
    way, data = choose_numbers(160, integers, part, "payload")
    assert data == coded[way]
    assert 8 * len(data) == min(p.payload_bits for p in programs.values())
    way, data = choose_numbers(160, integers, part, "program")
    assert programs[way].program_bits <= min(p.program_bits for p in programs.values()) + 16


def test_the_place_of_a_section_is_in_the_recipe() -> None:
    recipe = with_prompt(BARE, "stored", 4)
    assert decode(recipe, b"abcd").prompt == "abcd"
    with pytest.raises(PayloadError, match="the payload has 3 bytes, its prompt alone 4"):
        decode(recipe, b"abc")


@pytest.mark.parametrize("length", ["program", "payload"])
@pytest.mark.parametrize("constant", ["math", ' it\'s "so"', "zwölf\n\u2028", "\\n", None])
def test_a_program_without_the_model_prints_its_text_or_its_input(
    constant: str | None, length: Length, tmp_path: Path
) -> None:
    program = build_printing(constant, length)
    (tmp_path / "program.py").write_bytes(program.script)
    (tmp_path / "payload.bin").write_bytes(program.payload)
    inputs = ["one", "", 'quote " and \n', "zwölf\u2028"]
    done = subprocess.run(
        # Without any library, and with a model's folder that does not exist.
        [sys.executable, "-S", "program.py", "nowhere"],
        input="".join(json.dumps(text) + "\n" for text in inputs),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.stderr == ""
    outputs = [json.loads(line) for line in done.stdout.splitlines()]
    assert outputs == [text if constant is None else constant for text in inputs]
    prompt, printed = decode(program.recipe, program.payload).prompt, program.recipe.printed
    assert printed is not None
    assert [printed.output(prompt, text) for text in inputs] == outputs


def test_a_constant_is_in_the_file_whose_length_counts() -> None:
    text = "math"
    program, payload = (build_printing(text, length) for length in ("program", "payload"))
    assert program.program_bits == 8 * len("for A in open(0):print('\"math\"')")
    assert (payload.payload_bits, program.payload_bits) == (8 * len(text), 0)
    assert build_printing(None, "program").program_bits == 8 * len("print(end=open(0).read())")
