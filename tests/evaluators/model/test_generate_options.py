"""Whatever a model's generation config says, packs, batches and program.py print the same."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.generate import asked, continue_alone, template_digest
from kilobit.evaluators.model.packing.decode import Asked, answer
from kilobit.evaluators.model.packing.passes import Planner
from kilobit.evaluators.model.program_builder import Builder, run_batch
from kilobit.evaluators.proof.sandbox import Limits, Sandbox
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.recipe import GenerationPart
from kilobit.search.programs.script import readable_script
from tests.conftest import REPOSITORY
from tests.support.models import config
from tests.support.packs import said

pytestmark = pytest.mark.timeout(600)
INPUTS = ["Ben has", "a", "Q: How many big coins", "Anna", "x" * 9, "7 + 1 =", "Q", "The apple"]
STOP = ("or", "f f")
PROMPT = Prompt(instruction="Number:")
WATERMARK = {"greenlist_ratio": 0.25, "bias": 9.0, "hashing_key": 15485863, "seeding_scheme": "l"}
WATERMARK |= {"seeding_scheme": "lefthash", "context_width": 1}
# A valid value of each option that differs from the library's.
VALUES: dict[str, list[Any]] = {
    "assistant_confidence_threshold": [0.9],
    "assistant_early_exit": [1],
    "assistant_ensemble_weight": [0.5],
    "assistant_lookbehind": [3],
    "bad_words_ids": [[[70], [71]]],
    "begin_suppress_tokens": [[70, 71, 72]],
    "bos_token_id": [3],
    "cache_config": [{"nbits": 4}],
    "cache_implementation": ["static", "offloaded", "hybrid", "dynamic"],
    "compile_config": [{"fullgraph": True}],
    "constraints": [[]],
    "continuous_batching_config": [{"page_size": 16}],
    "decoder_start_token_id": [4],
    "disable_compile": [True],
    "diversity_penalty": [0.5],
    "do_sample": [True],
    "dola_layers": ["high"],
    "early_stopping": [True, "never"],
    "encoder_no_repeat_ngram_size": [1],
    "encoder_repetition_penalty": [1.5],
    "eos_token_id": [[0, 70], 5, [], -1, [0, -1], 10**6, None, "a", [True], 1.5],
    "epsilon_cutoff": [0.5],
    "eta_cutoff": [0.5],
    "exponential_decay_length_penalty": [[1, 5.0]],
    "force_words_ids": [[[70]]],
    "forced_bos_token_id": [7],
    "forced_eos_token_id": [9],
    "guidance_scale": [3.0],
    "is_assistant": [True],
    "length_penalty": [2.0],
    "low_memory": [True],
    "max_cache_len": [64],
    "max_length": [4],
    "max_matching_ngram_size": [3],
    "max_new_tokens": [2],
    "max_time": [1e-9],
    "min_length": [400],
    "min_new_tokens": [6],
    "min_p": [0.5],
    "no_repeat_ngram_size": [1],
    "num_assistant_tokens": [3],
    "num_assistant_tokens_schedule": ["heuristic"],
    "num_beam_groups": [2],
    "num_beams": [3],
    "num_return_sequences": [2],
    "output_attentions": [True],
    "output_hidden_states": [True],
    "output_logits": [True],
    "output_scores": [True],
    "pad_token_id": [70, -1, 10**6, 0, "a"],
    "penalty_alpha": [0.6],
    "prefill_chunk_size": [3],
    "prompt_lookup_num_tokens": [3],
    "remove_invalid_values": [True],
    "renormalize_logits": [True],
    "repetition_penalty": [3.0],
    "return_dict_in_generate": [True],
    "sequence_bias": [[[[70], -9.0]]],
    "speculation_type": ["prompt_lookup"],
    "stop_strings": [["e", "a"]],
    "suppress_tokens": [[70, 71, 72]],
    "target_lookbehind": [3],
    "temperature": [0.1],
    "token_healing": [True],
    "top_h": [0.5],
    "top_k": [3],
    "top_p": [0.5],
    "typical_p": [0.5],
    "use_cache": [False],
    "use_mtp": [True],
    "watermarking_config": [WATERMARK],
    "an_option_of_tomorrow": [1],
}
# Options that have a value which loading refuses.
REFUSED = {"compile_config", "eos_token_id", "num_return_sequences", "pad_token_id"}
# Options that are tried always; with all of them it takes minutes.
SOME = ("eos_token_id", "max_time", "no_repeat_ngram_size", "num_beams", "pad_token_id")
SOME += ("prefill_chunk_size", "return_dict_in_generate", "stop_strings", "suppress_tokens")


def write(target: Path, source: Path, options: Mapping[str, Any]) -> Path:
    """Copy a model's folder with other options of generation."""
    shutil.copytree(source, target)
    (target / "generation_config.json").write_text(json.dumps(options), "utf-8")
    return target


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(threads=1) as made:
        yield made


def outputs(folder: Path, sandbox: Sandbox) -> tuple[list[str], FrozenModel]:
    """Return what a plain program prints, after batches and packs were seen to say the same."""
    base = config(folder)
    frozen = load(base, Path())
    task = load_miniature("numbers", 0)
    task = replace(task, question="{input}", stop=STOP, max_new_tokens=12)
    builder = Builder(frozen, base, task, 3, "payload")
    candidate = Candidate(task="numbers", model="m", prompt=PROMPT)
    texts = builder.code_text(candidate, by_model=False)
    program = builder.build(candidate, texts, None, [])
    prompt = builder.decode(program).prompt
    batches = run_batch(program, prompt, frozen, frozen.model, INPUTS).texts
    rows = []
    for text in INPUTS:
        question = asked(frozen, False, prompt + task.question, text)
        ids = frozen.tokenizer(question, add_special_tokens=frozen.special_tokens)["input_ids"]
        rows.append(Asked(0, tuple(ids), 12, task.stop))
    found = answer(frozen, [{}], rows, Planner(4000))
    assert [continue_alone(frozen, rows[0].ids, 12, task.stop)] == found[:1]
    assert said(frozen, found) == batches
    args = (program.script, program.payload, folder, INPUTS, Limits())
    assert [*sandbox.run(*args)] == batches
    return batches, frozen


def test_every_option_of_the_library_has_a_value() -> None:
    options = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert options - {"transformers_version"} <= set(VALUES)


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("llama", SOME),
        ("gpt2", ("pad_token_id",)),
        pytest.param("llama", sorted({*VALUES} - {*SOME}), marks=pytest.mark.slow),
    ],
)
def test_no_option_makes_packs_and_programs_differ(
    architecture: str,
    names: tuple[str, ...],
    model_folders: dict[str, Path],
    tmp_path: Path,
    sandbox: Sandbox,
) -> None:
    source, honest = model_folders[architecture], {"eos_token_id": 0}
    expected, frozen = outputs(write(tmp_path / "honest", source, honest), sandbox)
    # Rows end at different places, so that some are padded.
    assert len({len(frozen.tokenizer(text)["input_ids"]) for text in expected}) > 1
    assert frozen.generation is None
    refused, differ = [], []
    for name, value in [(one, value) for one in names for value in VALUES[one]]:
        folder = write(tmp_path / f"{name}-{value!s:.9}", source, honest | {name: value})
        try:
            found, _ = outputs(folder, sandbox)
        except ValueError as error:
            refused.append((name, value, str(error)))
            continue
        if name != "eos_token_id" and found != expected:
            differ.append((name, value))
    assert not differ
    assert {name for name, _, _ in refused} <= REFUSED
    assert all("generation" in words for _, _, words in refused), refused


# What earlier versions of the library wrote where nothing was chosen.
DEFAULTS = {
    "_from_model_config": True,
    "diversity_penalty": 0.0,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "return_dict_in_generate": False,
}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"eos_token_id": 0, **DEFAULTS}, None),
        ({"eos_token_id": 0, "use_cache": False}, (0,)),
        ({"eos_token_id": 0, "temperature": 0.6, "top_p": 0.9, "do_sample": True}, None),
        ({"eos_token_id": [0], "pad_token_id": 0, "cache_implementation": "hybrid"}, None),
        ({"eos_token_id": [0, 9], "repetition_penalty": 1.1}, (0, 9)),
        ({"eos_token_id": 9}, (9,)),
        ({"pad_token_id": 1}, ()),
    ],
)
def test_a_program_says_options_only_where_the_models_own_mean_others(
    options: dict[str, Any],
    part: tuple[int, ...] | None,
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    frozen = load(config(write(tmp_path / "m", model_folders["llama"], options)), Path())
    pad = frozen.tokenizer.pad_token_id
    expected = None if part is None else GenerationPart(end_tokens=part, pad_token=pad)
    assert frozen.generation == expected


@pytest.mark.parametrize("name", ["pretrained", "posttrained"])
def test_programs_of_the_models_that_come_with_kilobit_say_no_options(name: str) -> None:
    assert load(config(REPOSITORY / "examples" / "tiny" / name), Path()).generation is None


def test_options_that_the_library_would_pass_over_are_refused(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = write(tmp_path / "m", model_folders["llama"], {})
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        load(config(folder), Path())


@pytest.mark.parametrize("lead", ["", "\n", "  "])
def test_a_template_sees_the_day_of_the_settings_on_both_sides(
    lead: str, model_folders: dict[str, Path], tmp_path: Path, sandbox: Sandbox
) -> None:
    folder = write(tmp_path / "m", model_folders["llama"], {"eos_token_id": 0})
    text = lead + "{% if strftime_now is defined %}On {{ strftime_now('%d %b') }}:{% endif %}"
    text += "{{ messages[0].content }} A"
    (folder / "chat_template.jinja").write_text(text, "utf-8")
    task, found = load_miniature("numbers", 0), {}
    for today in ("31 December 2001", "4 May"):
        base = config(folder, today=today)
        frozen = load(base, Path())
        builder = Builder(frozen, base, task, 3, "payload")
        candidate = Candidate(task="numbers", model="m", chat=True, max_new_tokens=9)
        program = builder.build(candidate, {}, None, [])
        assert today in readable_script(program.recipe)
        here = run_batch(program, "", frozen, frozen.model, INPUTS).texts
        args = (program.script, program.payload, folder, INPUTS, Limits())
        assert [*sandbox.run(*args)] == here
        found[template_digest(frozen)] = asked(frozen, True, "{input}", "x")
    # A blank before a block at the beginning of a line is dropped, as without a date.
    begin = lead.strip(" ")
    assert [*found.values()] == [f"{begin}On 31 December 2001:x A", f"{begin}On 4 May:x A"]
