"""A program's two files say what the search recorded, without this package, in another process."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.oracles import run_program
from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.generate import asked, generate
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.proof.sandbox import Limits, ProgramFailedError
from kilobit.evaluators.proof.verify import train_file
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.coarsening import coarse
from kilobit.search.programs.numbers import Tensor, encode_numbers
from kilobit.search.programs.program import WAYS, Program, build, decode, text_part
from kilobit.search.programs.script import readable_script
from kilobit.search.programs.text import CODECS, PayloadError, TextCodec
from tests.conftest import random_numbers
from tests.support.fresh_process import printed, run_files
from tests.support.recipes import NUMBER_METHODS, adapter_spec

pytestmark = pytest.mark.timeout(300)
TASK = load_miniature("numbers", 0)
INPUTS = [
    *(e.input for e in TASK.splits.search[:7]),
    "",
    "a line\nand {input} \"quoted\" 'twice' \\ ä \u2028 \U0001f600?",
]
PROMPT = Prompt(instruction="Häufig: {input} 'n' \"m\" \\ Zahl.", demonstrations=(("1 + 1?", "2"),))
LIMITS = Limits(seconds=120)


@dataclass(frozen=True)
class Made:
    """A program with what the search's process gets from it and from the base model alone."""

    program: Program
    outputs: list[str]
    bare: list[str]


class Maker:
    """Makes programs of one model as an evaluator does."""

    def __init__(self, folder: Path, batch_size: int = 4, **config: Any) -> None:
        self.folder = folder
        settings = {"regime": "m", "path": str(folder), **config}
        base = BaseModelConfig.model_validate_json(json.dumps(settings), strict=True)
        self.frozen: FrozenModel = load(base, Path())
        self.builder = Builder(self.frozen, base, TASK, batch_size, "payload")

    def make(
        self,
        candidate: Candidate,
        change: Callable[..., Program] | None = None,
        codec: TextCodec | None = None,
        numbers: Callable[[Adapter], list[Tensor]] = random_numbers,
    ) -> Made:
        texts = self.builder.code_text(candidate, by_model=codec == "model")
        if codec is not None:
            texts = {codec: texts[codec]}
        with self._adapted(candidate) as adapter:
            tensors = numbers(adapter) if adapter else []
            program = self.builder.build(candidate, texts, adapter, tensors)
            if change:
                program = change(program, adapter, tensors)
            decoded = self.builder.decode(program)
            if adapter:
                adapter.assign(decoded.tensors, decoded.delta)
            model = adapter.model if adapter else self.frozen.model
            outputs = run_program(program, decoded.prompt, self.frozen, model, INPUTS)
        bare = generate(
            self.frozen,
            [asked(self.frozen, candidate.chat, TASK.question, text) for text in INPUTS],
            max_new_tokens=program.recipe.max_new_tokens,
            stop=TASK.stop,
            batch_size=4,
        )
        return Made(program, outputs, bare.texts)

    @contextmanager
    def _adapted(self, candidate: Candidate) -> Iterator[Any]:
        if candidate.adapter is None:
            yield None
            return
        with installed(self.frozen, candidate.adapter) as adapter:
            yield adapter


def candidate(method: str | None = None, **changes: Any) -> Candidate:
    values: dict[str, Any] = {"task": "numbers", "model": "m", "max_new_tokens": 6, **changes}
    if method:
        values["adapter"] = adapter_spec(method)
    return Candidate.model_validate(values)


def in_the_way(way: Any) -> Callable[..., Program]:
    """Return what writes an adapter's numbers in `way` and no other."""

    def change(program: Program, adapter: Any, tensors: Any) -> Program:
        code, integers = coarse(tensors, adapter.units, 0.25, 1.0)
        # A row that is not coded at all.
        integers[0][0] = 0
        numbers = encode_numbers(code, integers, way)
        assert numbers is not None
        recipe = program.recipe
        part = adapter.part(way)
        kept = program.payload[: recipe.prompt.num_bytes if recipe.prompt else 0]
        return build(recipe.model_copy(update={"adapter": part}), kept + numbers)

    return change


@pytest.fixture(scope="module")
def llama(model_folders: dict[str, Path]) -> Maker:
    return Maker(model_folders["llama"])


STEPS = ("cut:.", r"find:\w+ (.*)", "round:1", "no_final_period", "upper")


@pytest.fixture(scope="module")
def programs(llama: Maker) -> dict[str, Made]:
    """Return one program of every kind there is."""
    made = {
        "nothing": llama.make(candidate()),
        "steps": llama.make(candidate(prompt=PROMPT, postprocess=STEPS)),
        "limit": llama.make(candidate(prompt=PROMPT, max_new_tokens=1)),
    }
    for codec in (*CODECS, "model"):
        made[f"prompt {codec}"] = llama.make(candidate(prompt=PROMPT), codec=codec)
        assert made[f"prompt {codec}"].program.codecs == {"prompt": codec}
    for method in NUMBER_METHODS:
        made[method] = llama.make(candidate(method))
        made[f"{method} prompt"] = llama.make(candidate(method, prompt=PROMPT), codec="brotli")
    for way in WAYS:
        made[f"lora {way.coder} {way.scales}"] = llama.make(candidate("lora"), in_the_way(way))
    learned = adapter_spec("lora").model_copy(update={"training": "bits", "nats_per_kbit": 1.0})
    made["learned steps"] = llama.make(candidate().model_copy(update={"adapter": learned}))
    steps = made["learned steps"].program.recipe.adapter
    assert steps is not None
    assert steps.numbers.steps == "tensor"
    made["lora from its start"] = llama.make(candidate("lora"), numbers=near_the_start)
    part = made["lora from its start"].program.recipe.adapter
    assert part is not None
    assert (part.delta, part.numbers.steps) == (True, "factor")
    both = candidate("lora", prompt=PROMPT, postprocess=("lower",))
    made["model prompt and numbers"] = llama.make(both, in_the_way(WAYS[2]), "model")
    return made


def near_the_start(adapter: Adapter) -> list[Tensor]:
    """Return numbers as short training leaves them: A nearly what it was, B large enough."""
    rng = np.random.default_rng(0)
    return [
        (start + (0.01 if start.any() else 1.0) * rng.normal(size=start.shape)).astype(np.float32)
        for start in adapter.starts()
    ]


def away_from_the_start(adapter: Adapter) -> list[Tensor]:
    """Return numbers of which A is nowhere near what it was."""
    near = near_the_start(adapter)
    return [t if i % 2 else np.roll(t, 3, 1) for i, t in enumerate(near)]


def test_the_shorter_of_numbers_and_differences_is_written(
    programs: dict[str, Made], llama: Maker
) -> None:
    near = programs["lora from its start"].program
    as_numbers = min(
        len(llama.make(candidate("lora"), in_the_way(w), numbers=near_the_start).program.payload)
        for w in WAYS
    )
    assert len(near.payload) < 0.85 * as_numbers
    away = llama.make(candidate("lora"), numbers=away_from_the_start).program
    assert away.recipe.adapter is not None
    assert not away.recipe.adapter.delta
    assert away.recipe.adapter.seed is None


def moved_by_its_size(adapter: Adapter) -> list[Tensor]:
    """Return numbers as Adam leaves them: each of A has moved by as much as its start is large."""
    rng, moved = np.random.default_rng(0), list[Tensor]()
    for start in adapter.starts():
        way = rng.choice((-1, 1), start.shape) if start.any() else rng.normal(size=start.shape)
        moved.append((start + (start.std() or 1) * way).astype(np.float32))
    return moved


def test_differences_that_lose_the_changes_of_a_are_not_written(llama: Maker) -> None:
    spec = adapter_spec("lora").model_copy(update={"step": 2.0})
    at_a_coarse_step = candidate().model_copy(update={"adapter": spec})
    part = llama.make(at_a_coarse_step, numbers=moved_by_its_size).program.recipe.adapter
    assert part is not None
    assert not part.delta


def test_differences_from_another_start_are_another_adapter(
    programs: dict[str, Made], llama: Maker
) -> None:
    made = programs["lora from its start"]
    part = made.program.recipe.adapter
    assert part is not None
    assert part.seed is not None
    other = part.model_copy(update={"seed": part.seed ^ 1})
    recipe = made.program.recipe.model_copy(update={"adapter": other})
    changed = build(recipe, made.program.payload)
    found = run_files(changed.script, changed.payload, llama.folder, INPUTS, LIMITS)
    assert found != made.outputs


@pytest.mark.parametrize("method", [m for m in NUMBER_METHODS if m != "soft_prompt"])
def test_an_adapter_that_changes_nothing_leaves_the_plain_program(
    llama: Maker, method: str
) -> None:
    def untrained(adapter: Adapter) -> list[Tensor]:
        return adapter.tensors() if method == "lora" else [0 * t for t in adapter.tensors()]

    made = llama.make(candidate(method, prompt=PROMPT), numbers=untrained)
    plain = llama.make(candidate(prompt=PROMPT))
    assert made.program.recipe == plain.program.recipe
    assert made.program.digest == plain.program.digest
    # The adapter is still on the model, with the numbers that the program does not hold.
    assert made.outputs == plain.outputs


def one_differs(made: Made) -> bool:
    return made.outputs != made.bare


def outputs_of(programs: dict[str, Made], model: Path) -> dict[str, list[str]]:
    made = {name: one.program for name, one in programs.items()}
    return printed(made, model, INPUTS)


def test_every_kind_of_program_says_what_the_search_recorded(
    programs: dict[str, Made], llama: Maker
) -> None:
    found = outputs_of(programs, llama.folder)
    for name, made in programs.items():
        assert found[name] == made.outputs, name
        assert one_differs(made) is (name != "nothing"), name
    # What differs is not one answer to everything.
    assert max(len(set(made.outputs)) for made in programs.values()) > 4


def run_alone(made: Made, model: Path) -> list[str]:
    return run_files(made.program.script, made.program.payload, model, INPUTS, LIMITS, fresh=True)


def all_equal(chosen: dict[str, Made], model: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda made: run_alone(made, model), chosen.values())
        for (name, made), outputs in zip(chosen.items(), found, strict=True):
            assert outputs == made.outputs, name


FRESH = ("prompt model", "lora prompt", "soft_prompt")


def test_programs_say_the_same_each_in_a_fresh_process(
    programs: dict[str, Made], llama: Maker
) -> None:
    all_equal({name: programs[name] for name in FRESH}, llama.folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_programs_say_the_same_each_in_a_fresh_process(
    programs: dict[str, Made], llama: Maker
) -> None:
    all_equal({name: made for name, made in programs.items() if name not in FRESH}, llama.folder)


def livelier(folder: Path, target: Path) -> Path:
    """Write a model of larger weights: a small one that is tied repeats itself."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "wte" not in name and "embed" not in name:
                weight.mul_(20)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_other_architectures_say_the_same(
    model_folders: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    maker = Maker(livelier(model_folders[architecture], tmp_path / "model"))
    assert maker.frozen.pad_with_end is (architecture == "gpt2")
    assert maker.frozen.model.config.tie_word_embeddings
    targets = {"gpt2": ("c_attn",), "qwen2": ("q_proj", "down_proj")}[architecture]
    adapted = candidate("lora").model_copy(
        update={"adapter": adapter_spec("lora", target_modules=targets)}
    )
    tied = {"gpt2": ("wte",), "qwen2": ("embed_tokens",)}[architecture]
    weights = candidate("weights").model_copy(
        update={"adapter": adapter_spec("weights", target_modules=tied, layers=None)}
    )
    made = {
        "prompt": maker.make(candidate(prompt=PROMPT)),
        "model": maker.make(candidate(prompt=PROMPT), codec="model"),
        "lora": maker.make(adapted),
        "weights": maker.make(weights),
        "soft_prompt": maker.make(candidate("soft_prompt")),
    }
    found = outputs_of(made, maker.folder)
    for name, one in made.items():
        assert found[name] == one.outputs, name
        assert one_differs(one), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_shorter_types_say_the_same_on_the_same_machine(
    model_folders: dict[str, Path], dtype: str
) -> None:
    maker = Maker(model_folders["llama"], dtype=dtype)
    made = {
        "prompt": maker.make(candidate(prompt=PROMPT, max_new_tokens=12)),
        "lora": maker.make(candidate("lora", max_new_tokens=12)),
        "vera": maker.make(candidate("vera", max_new_tokens=12)),
    }
    found = outputs_of(made, maker.folder)
    for name, one in made.items():
        assert found[name] == one.outputs, name


def test_a_program_that_spreads_its_model_says_the_same_where_there_is_one_device(
    llama: Maker,
) -> None:
    one = llama.make(candidate(prompt=PROMPT))
    recipe = one.program.recipe.model_copy(update={"device": "cuda", "spread": True})
    program = build(recipe, one.program.payload)
    assert "device_map='auto'" in readable_script(program.recipe)
    assert ".cuda()" not in readable_script(program.recipe)
    found = run_files(program.script, program.payload, llama.folder, INPUTS, LIMITS)
    assert found == one.outputs
    # What a recipe without it says is as long as before.
    assert "spread" not in one.program.recipe.canonical()


def test_a_soft_prompt_is_continued_one_at_a_time(programs: dict[str, Made]) -> None:
    assert programs["soft_prompt"].program.recipe.batch_size == 1
    assert programs["lora"].program.recipe.batch_size == 4


def test_a_payload_that_says_something_else_says_something_else(
    programs: dict[str, Made], llama: Maker
) -> None:
    # What the comparison above would not see if the payload were never read.
    made = programs["prompt stored"]
    other = made.program.payload.replace(b"Zahl", b"Wort")
    assert other != made.program.payload
    found = run_files(made.program.script, other, llama.folder, INPUTS, LIMITS)
    assert found != made.outputs
    assert decode(made.program.recipe, other).prompt.count("Wort") == 1
    assert text_part("stored", other) == made.program.recipe.prompt


def test_demonstrations_by_index_come_from_the_train_split(llama: Maker) -> None:
    shown = tuple((e.input, e.target) for e in (TASK.splits.train[3], TASK.splits.train[300]))
    prompt = Prompt(instruction="Number:", demonstrations=shown)
    config = BaseModelConfig(regime="m", path=llama.folder)
    by_index = Builder(llama.frozen, config, TASK, 4, "payload", by_index=True)
    texts = by_index.code_text(candidate(prompt=prompt), by_model=False)
    made = by_index.build(candidate(prompt=prompt), texts, None, ())
    assert made.codecs == {"prompt": "index"}
    assert made.payload == bytes([0, 3, 1, 44])
    assert by_index.decode(made).prompt == prompt.render(TASK)
    # The same demonstrations after another instruction have the same section and another text.
    other = Prompt(instruction="Digits:", demonstrations=shown)
    texts_of_other = by_index.code_text(candidate(prompt=other), by_model=False)
    made_of_other = by_index.build(candidate(prompt=other), texts_of_other, None, ())
    assert made_of_other.payload == made.payload
    assert by_index.decode(made_of_other).prompt == other.render(TASK)
    assert by_index.decode(made).prompt == prompt.render(TASK)
    with pytest.raises(PayloadError, match="there is no index 65535"):
        by_index.decode(build(made.recipe, b"\0\3\xff\xff"))
    with pytest.raises(PayloadError, match="train split"):
        decode(made.recipe, made.payload)
    same = llama.make(candidate(prompt=prompt), codec="stored")
    printed = run_files(made.script, made.payload, llama.folder, INPUTS, Limits(), train_file(TASK))
    assert printed == same.outputs != same.bare
    with pytest.raises(ProgramFailedError):
        run_files(made.script, made.payload, llama.folder, INPUTS, Limits())


def test_what_the_train_split_lacks_has_no_index() -> None:
    assert Prompt(demonstrations=(("never asked", "1"),)).indices(TASK) is None
    assert Prompt(instruction="Number:").indices(TASK) is None


@pytest.fixture(scope="module")
def chatting(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Maker:
    folder = tmp_path_factory.mktemp("chatting") / "model"
    shutil.copytree(model_folders["llama"], folder)
    template = (
        "{% for turn in messages %}{{ turn.role[0] + ': ' + turn.content + '\\n' }}{% endfor %}a:"
    )
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return Maker(folder)


TURNS = Prompt(
    instruction="Number:", demonstrations=(("1 + 1?", "2"), ("a line\nand {input}?", "3"))
)


@pytest.mark.parametrize(
    ("method", "codec", "prompt"),
    [
        (None, "stored", TURNS),
        (None, "brotli", TURNS),
        (None, "model", TURNS),
        ("lora", "xz", TURNS),
        ("soft_prompt", "deflate", TURNS),
        # An empty line is a part of a turn, so it is not between them.
        (None, "zstd", Prompt(demonstrations=(("1 +\n\n1?", "2"),))),
    ],
)
def test_demonstrations_in_a_chat_are_turns(
    chatting: Maker, method: str | None, codec: TextCodec, prompt: Prompt
) -> None:
    one = candidate(method, prompt=prompt, chat=True, turns=True)
    made = chatting.make(one, codec=codec)
    assert made.program.codecs["prompt"] == codec
    printed = run_files(made.program.script, made.program.payload, chatting.folder, INPUTS, LIMITS)
    assert printed == made.outputs
    # The template renders these turns, by transformers alone.
    frozen, recipe = chatting.frozen, made.program.recipe
    said = [text for q, a in prompt.demonstrations for text in (TASK.ask(q), a)]
    said[0] = prompt.lead() + said[0]
    for text in INPUTS:
        messages = [
            {"role": "user" if i % 2 == 0 else "assistant", "content": content}
            for i, content in enumerate([*said, TASK.ask(text)])
        ]
        rendered = frozen.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        before = chatting.builder.decode(made.program).prompt
        assert rendered == asked(frozen, True, recipe.question, text, before, recipe.turns)
        assert rendered.count("u: ") == len(prompt.demonstrations) + 1
    squeezed = chatting.make(candidate(method, prompt=prompt, chat=True), codec=codec)
    assert squeezed.program.recipe.turns == ""
    assert squeezed.program.script != made.program.script
    sizes, plain = made.program.sections, squeezed.program.sections
    assert sizes["template"] > plain["template"] > 0
    if codec != "model":
        # That script holds the checksum of the text.
        assert sizes["script"] == plain["script"]


def test_turns_by_index_come_from_the_train_split(chatting: Maker) -> None:
    shown = tuple((e.input, e.target) for e in (TASK.splits.train[3], TASK.splits.train[300]))
    one = candidate(
        prompt=Prompt(instruction="Number:", demonstrations=shown), chat=True, turns=True
    )
    config = BaseModelConfig(regime="m", path=chatting.folder)
    by_index = Builder(chatting.frozen, config, TASK, 4, "payload", by_index=True)
    made = by_index.build(one, by_index.code_text(one, by_model=False), None, ())
    assert made.codecs == {"prompt": "index"}
    assert by_index.decode(made).prompt == one.before(TASK)
    same = chatting.make(one, codec="stored")
    files = made.script, made.payload, chatting.folder
    assert run_files(*files, INPUTS, Limits(), train_file(TASK)) == same.outputs != same.bare
