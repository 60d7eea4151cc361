"""Every architecture is right or refused: a candidate in a pack is what it is alone.

    UPDATE_DOCS=1 pytest tests/whole_runs/test_architectures.py -m "slow or not slow"

writes the table of `docs/architectures.md`. A cell says how the candidates of a kind run: `pack` in
shared passes, `alone` one by one, or `refused` before the search.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks.oracles import run_program
from kilobit.evaluators.model.adapted import AdaptedModel
from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load, unchanged
from kilobit.evaluators.model.packing.deltas import Changes, detached, fixed
from kilobit.evaluators.model.packing.passes import Planner
from kilobit.evaluators.model.packing.probe import probe
from kilobit.evaluators.model.packing.train import Job, train_pack
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.search.base_model import BaseModelConfig, Quantization
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.postprocess import cut
from tests.conftest import REPOSITORY, _tokenizer
from tests.support.fresh_process import printed
from tests.support.models import ARCHITECTURES, build_model
from tests.support.packs import TASK
from tests.support.shards.architectures import KINDS, MORE, is_refused, spec_of, written

PROMPT = "Answer with a number, please:\n"
INPUTS = [example.input for example in TASK.splits.search[:4]]
LIMIT, PAGE = 5, REPOSITORY / "docs" / "architectures.md"
ALWAYS = (
    "bloom", "deepseek_v3", "falcon_h1", "gemma3", "gpt2", "gpt_oss", "llama", "llama4", "mamba",
    "mistral", "mpt", "olmo3", "opt", "qwen2_moe",
)  # fmt: skip


class Alone:
    """Loss, numbers, program and outputs of a candidate that runs alone, as program.py runs it."""

    def __init__(self, frozen: FrozenModel, adapter: Adapter | None) -> None:
        lesson = Lesson(TASK, "", TASK.splits.train)
        candidate = Candidate(
            task=TASK.name,
            model="r",
            adapter=adapter and adapter.spec,
            prompt=Prompt(instruction=PROMPT.strip()) if adapter is None else Prompt(),
            max_new_tokens=LIMIT,
        )
        assert frozen.config is not None
        builder = Builder(frozen, frozen.config, TASK, 4, "program")
        texts = builder.code_text(candidate, by_model=False)
        self.loss = adapter and adapter.train(frozen, lesson, adapter.spec.steps).loss
        self.tensors = adapter.tensors() if adapter else []
        self.program = builder.build(candidate, texts, adapter, self.tensors)
        decoded = builder.decode(self.program)
        self.coded = (decoded.tensors, decoded.delta)
        if adapter is not None:
            adapter.assign(*self.coded)
        before = PROMPT if adapter is None else ""
        model = frozen.model if adapter is None else adapter.model
        self.outputs = run_program(self.program, before, frozen, model, INPUTS)


def cut_all(outputs: list[str]) -> list[str]:
    return [cut(text, TASK.stop) for text in outputs]


def packed(
    frozen: FrozenModel, found: dict[str, tuple[Adapter, Changes]], own: dict[str, Alone]
) -> None:
    """Train adapters in one pack, and compare losses, numbers and outputs with those alone."""
    lesson = Lesson(TASK, "", TASK.splits.train)
    jobs = {kind: Job(*pair, lesson, pair[0].spec.steps) for kind, pair in found.items()}
    train_pack(frozen, list(jobs.values()), Planner())
    questions = [TASK.ask(text) for text in INPUTS]
    for kind, job in jobs.items():
        assert job.error is None, kind
        assert job.trained.loss == pytest.approx(own[kind].loss, abs=1e-4), kind
        for tensor, other in zip(job.adapter.tensors(), own[kind].tensors, strict=True):
            assert tensor == pytest.approx(other, abs=1e-3), kind
        job.adapter.assign(*own[kind].coded)
        model = AdaptedModel(frozen, changes=fixed(job.changes), num_soft=job.adapter.spec.num_soft)
        assert model.answer(questions, LIMIT, TASK.stop) == cut_all(own[kind].outputs), kind


def cells(
    name: str,
    folder: Path,
    *,
    files: bool,
    kinds: Sequence[str] = KINDS,
    quantization: Quantization | None = None,
) -> dict[str, str]:
    """Return how the candidates of each kind run on an architecture, after comparing them."""
    # transformers gives the tokenizers of Qwen 2 a padding token of their own if they have none.
    build_model(name, _tokenizer(bos=False, pad=name == "qwen2_tied"), folder)
    config = BaseModelConfig(regime="r", path=folder, quantization=quantization)
    frozen, about = load(config, Path()), ARCHITECTURES[name]
    how: dict[str, str] = {}
    own: dict[str, Alone] = {}
    together: dict[str, tuple[Adapter, Changes]] = {}
    packs = probe(frozen)
    for kind in kinds:
        one = spec_of(kind, about)
        if one is not None and is_refused(name, one):
            how[kind] = "refused"
            continue
        with nullcontext() if one is None else installed(frozen, one) as adapter:
            own[kind] = Alone(frozen, adapter)
        pair = detached(frozen, one) if one is not None and packs.holds else None
        if pair is not None and packs.takes(pair[1]):
            together[kind] = pair
        how[kind] = "pack" if kind in together or (one is None and packs.holds) else "alone"
    if packs.holds:
        model = AdaptedModel(frozen, prompt=PROMPT)
        questions = [TASK.ask(text) for text in INPUTS]
        assert model.answer(questions, LIMIT, TASK.stop) == cut_all(own["prompt"].outputs)
        packed(frozen, together, own)
    assert unchanged(frozen)
    if files:
        programs = {kind: one.program for kind, one in own.items()}
        said = printed(programs, folder, INPUTS)
        assert said == {kind: one.outputs for kind, one in own.items()}
    return how


def check(name: str, folder: Path, *, files: bool = False) -> None:
    row = [name, ARCHITECTURES[name].kinds, *cells(name, folder, files=files).values()]
    line, update = f"| {' | '.join(row)} |", bool(os.environ.get("UPDATE_DOCS"))
    assert written(PAGE, "# Architectures", line, update=update)


@pytest.mark.parametrize("name", ALWAYS)
def test_an_architecture_is_right_or_refused(name: str, tmp_path: Path) -> None:
    check(name, tmp_path / "model")


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_model_of_few_bits_and_its_files_are_right(
    name: str, quantization: Quantization, tmp_path: Path
) -> None:
    kinds = [*KINDS, *MORE] if name == "llama" else KINDS
    how = cells(name, tmp_path / "model", files=True, kinds=kinds, quantization=quantization)
    alone = {kind for kind in how if how[kind] != "pack"}
    assert alone <= {"FourierFT", "tokens", "weights of norms"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_files_of_an_architectures_programs_are_right_too(name: str, tmp_path: Path) -> None:
    check(name, tmp_path / "model", files=True)
