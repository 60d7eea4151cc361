import ast
import gc
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilobit.search.programs.program import WAYS
from kilobit.search.programs.recipe import Recipe
from kilobit.search.programs.script import readable_script, script
from tests.support.recipes import BARE, NUMBER_METHODS, RECIPES, with_adapter, with_prompt

REPOSITORY = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden_scripts.json"
MODULES = ("brotli", "constriction", "lzma", "numpy", "peft", "re", "re2", "torch", "zlib")
NOISE = ("coordinates", "seeds")
NEEDED = {
    "nothing": set(),
    "prompt stored": set(),
    "prompt deflate": {"zlib"},
    "prompt zstd": {"zstandard"},
    "prompt brotli": {"brotli"},
    "prompt xz": {"lzma"},
    "prompt model": {"constriction", "numpy", "torch"},
    "weights": {"torch"},
    "lora laplace row": {"constriction", "numpy", "peft", "torch"},
    "prompt and lora": {"brotli", "constriction", "numpy", "peft", "torch"},
    "chat": set(),
    "steps": {"re", "re2"},
    "steps by the first rule": {"re", "re2"},
    "nf4": set(),
    "int8 and factors": {"peft", "torch"},
} | {
    method: {"hashlib", "numpy", "re", "torch"} if method in NOISE else {"peft", "torch"}
    for method in NUMBER_METHODS
    if method != "weights"
}


def digest(source: bytes) -> list[object]:
    return [len(source), hashlib.sha256(source).hexdigest()]


def unpacked(source: bytes) -> str:
    """Return what a packed script runs, or the script itself."""
    if not source.startswith(b"#coding:l1\n"):
        return source.decode()
    (literal,) = (
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and node.value != "l1"
    )
    return brotli.decompress(literal.encode("latin-1")).decode()


def imported(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_scripts_are_the_golden_ones() -> None:
    # An old recipe gives the same bytes for ever: they are counted, and their digest is recorded.
    # After a change of format, or of python-minifier: python -m tests.search.programs.test_script
    golden = json.loads(GOLDEN.read_text("utf-8"))
    assert {name: digest(script(recipe)) for name, recipe in RECIPES.items()} == golden


@pytest.mark.parametrize("name", RECIPES)
def test_a_script_is_valid_and_has_nothing_of_ours(name: str) -> None:
    recipe = RECIPES[name]
    for source in (unpacked(script(recipe)), readable_script(recipe)):
        compile(source, "program.py", "exec")
        assert not imported(source) & {"cluster", "search", "evaluators", "launch", "kilobit"}
    assert len(script(recipe)) < len(readable_script(recipe))


@pytest.mark.parametrize("name", NEEDED)
def test_a_script_imports_what_its_recipe_needs_and_no_more(name: str) -> None:
    source = unpacked(script(RECIPES[name]))
    assert imported(source) == {"json", "sys", "transformers"} | NEEDED[name]


def test_a_part_that_is_not_there_leaves_no_trace() -> None:
    bare = readable_script(BARE)
    for word in ("peft", "payload.bin", "prompt", "coded", "chat", "torch", "postprocess", "re."):
        assert word not in bare
    assert "cuda" not in "".join(map(readable_script, (BARE, with_adapter(BARE, "lora"))))
    assert "stop_strings" not in readable_script(BARE.model_copy(update={"stop": ()}))
    assert "payload[" not in readable_script(with_prompt(BARE, "stored"))
    for way in WAYS:
        source = readable_script(with_adapter(BARE, "lora", way))
        assert ("constriction" in source) is (way.coder != "packed")
        assert ("scales" in source) is (way.scales == "row")


def test_a_quantised_model_costs_what_the_documentation_says() -> None:
    told = (REPOSITORY / "docs" / "hub-model.md").read_text("utf-8")
    (found,) = re.findall(r"loading\sline:([^.]+)\.", told)
    recipe = Recipe(question="Q: {input}\nA:", batch_size=16, max_new_tokens=8, stop=("\n",))
    more = []
    for update in ({}, {"dtype": "bfloat16", "device": "cuda"}):
        plain = recipe.model_copy(update=update)
        for kind in ("int8", "nf4"):
            few = plain.model_copy(update={"quantization": kind})
            more.append(len(script(few)) - len(script(plain)))
    assert [int(n) for n in re.findall(r"\b\d\d+\b(?! bits)", found)][:4] == more


@given(st.sampled_from(["numpy.", "peft. json.", "re.", "'\"\\", "{", "#\n", "\x00", "sys.argv"]))
def test_words_of_the_question_are_no_code(words: str) -> None:
    recipe = BARE.model_copy(update={"question": f"{words}{{input}}{words}", "stop": (words,)})
    assert imported(unpacked(script(recipe))) == {"json", "sys", "transformers"}
    strings = {
        node.value
        for node in ast.walk(ast.parse(unpacked(script(recipe))))
        if isinstance(node, ast.Constant)
    }
    assert words in strings


@given(st.text())
def test_a_packed_script_runs_what_was_packed(text: str) -> None:
    recipe = BARE.model_copy(update={"question": f"{text}{{input}}"})
    source = unpacked(script(recipe))
    assert len(script(recipe)) <= len(source.encode())
    strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert text == "" or text in strings or "{input}" in text


HASHES = """
import json
from tests.support.recipes import RECIPES
from tests.search.programs.test_script import digest
from kilobit.search.programs.script import script
print(json.dumps({name: digest(script(recipe)) for name, recipe in RECIPES.items()}))
"""


def test_another_process_makes_the_same_bytes() -> None:
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-c", HASHES],
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0] == found[1] == {name: digest(script(r)) for name, r in RECIPES.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_canonical_json(name: str) -> None:
    recipe = RECIPES[name]
    text = recipe.canonical()
    again = Recipe.model_validate_json(text, strict=True)
    assert again == recipe
    assert (
        again.canonical()
        == text
        == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    )
    assert json.loads(text)["version"] == 1
    assert script(again) == script(recipe)


if __name__ == "__main__":
    made = {name: digest(script(recipe)) for name, recipe in RECIPES.items()}
    GOLDEN.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


def test_threads_may_write_scripts_at_once() -> None:
    alone, thresholds = readable_script(RECIPES["learned steps"]), gc.get_threshold()
    # Another thread goes on in the middle of the parser wherever a collection runs Python.
    gc.callbacks.append(let_others_go_on)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = set(pool.map(readable_script, [RECIPES["learned steps"]] * 300))
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_others_go_on)
    assert found == {alone}


def let_others_go_on(*_: object) -> None:
    time.sleep(0)
