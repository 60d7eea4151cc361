"""The data recipe: examples that a model codes while it learns from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.oracles import run_program
from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.model import text_codec
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.text_codec import (
    Learned,
    chosen_examples,
    decode_examples,
    learn,
)
from kilobit.evaluators.proof.sandbox import Limits, ProgramFailedError
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec, peft_config
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt, Rung
from kilobit.search.programs.program import Program
from kilobit.search.programs.recipe import DataPart
from kilobit.search.programs.script import data_statements, readable_script
from kilobit.search.programs.text import PayloadError
from kilobit.search.task import Task
from tests.conftest import ARCHITECTURES, REPOSITORY
from tests.support.fresh_process import run_files
from tests.support.rows import rows_of

TASK = load_miniature("numbers", 0)
TARGETS = {"llama": ("q_proj", "v_proj"), "gpt2": ("c_attn",), "qwen2": ("down_proj",)}
TINY = REPOSITORY / "examples" / "tiny" / "pretrained"


def spec_of_data(part: DataPart) -> AdapterSpec:
    """Return a spec that builds the adapter of a part, without its choice of examples."""
    arguments = part.arguments
    spec = AdapterSpec(
        method="data",
        rank=arguments.get("r"),
        size=part.num_examples,
        target_modules=tuple(arguments.get("target_modules", ())),
        layers=tuple(arguments["layers_to_transform"]) if len(arguments) > 2 else None,
        learning_rate=part.learning_rate,
        steps=part.full_steps,
        batch_size=part.batch_size,
        seed=0,
    )
    if peft_config(spec) != ("LoraConfig", arguments):
        raise ValueError("the recipe's adapter is not one that this version writes")
    return spec


def spec(architecture: str = "llama", **changes: Any) -> AdapterSpec:
    values: dict[str, Any] = {
        "method": "data",
        "rank": 2,
        "size": 8,
        "target_modules": TARGETS[architecture],
        "learning_rate": 0.01,
        "steps": 10,
        "batch_size": 2,
        "seed": 3,
    }
    return AdapterSpec.model_validate(values | changes)


def frozen_from(folder: Path) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=folder), Path())


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return frozen_from(model_folders["llama"])


def learned_from(
    frozen: FrozenModel, chosen: AdapterSpec, until: int = 99, exact: bool = True, task: Task = TASK
) -> tuple[Learned, list[torch.Tensor]]:
    with installed(frozen, chosen) as adapter:
        learned = learn(frozen, adapter, task, until, exact=exact)
        return learned, [torch.from_numpy(tensor) for tensor in adapter.tensors()]


def decoded_from(frozen: FrozenModel, learned: Learned, section: bytes) -> list[str]:
    with installed(frozen, spec_of_data(learned.part)) as adapter:
        return decode_examples(frozen, adapter.model, learned.part, section)


def texts(chosen: AdapterSpec, task: Task = TASK) -> list[str]:
    return [task.ask(e.input) + task.show(e.target) for e in chosen_examples(task, chosen)]


def program_and_outputs(
    frozen: FrozenModel, folder: Path, chosen: AdapterSpec, num_inputs: int, instruction: str = ""
) -> tuple[Program, list[str], list[str]]:
    config = BaseModelConfig(regime="r", path=folder)
    builder = Builder(frozen, config, TASK, 6, "program")
    prompt = Prompt(instruction=instruction)
    candidate = Candidate(task="numbers", model="r", adapter=chosen, prompt=prompt)
    texts = builder.code_text(candidate, by_model=False)
    inputs = [example.input for example in TASK.splits.search[:num_inputs]]
    with installed(frozen, chosen) as adapter:
        learned = learn(frozen, adapter, TASK, chosen.steps, exact=True)
        program = builder.build(candidate, texts, adapter, learned)
        prompt_text = builder.decode(program).prompt
        outputs = run_program(program, prompt_text, frozen, adapter.model, inputs)
    return program, inputs, outputs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_examples_come_back_and_the_adapter_with_them(
    model_folders: dict[str, Path], architecture: str, batch_size: int
) -> None:
    frozen = frozen_from(model_folders[architecture])
    chosen = spec(architecture, batch_size=batch_size)
    learned, numbers = learned_from(frozen, chosen)
    with installed(frozen, spec_of_data(learned.part)) as adapter:
        found = decode_examples(frozen, adapter.model, learned.part, learned.section)
        again = [torch.from_numpy(tensor) for tensor in adapter.tensors()]
    assert found == texts(chosen)
    assert all(torch.equal(a, b) for a, b in zip(numbers, again, strict=True))
    assert any(bool(tensor.any()) for tensor in again[1::2])
    assert weights_digest(frozen.model) == frozen.digest


def test_the_files_give_the_same_outputs_in_a_fresh_process(
    frozen: FrozenModel, model_folders: dict[str, Path]
) -> None:
    # The output matrix at a large rate, so that a random model's answers come from the examples.
    chosen = spec(steps=16, batch_size=1, learning_rate=0.03, target_modules=("lm_head",))
    program, inputs, outputs = program_and_outputs(
        frozen, model_folders["llama"], chosen, 6, "Number:"
    )
    bare = run_program(program, "Number:\n", frozen, frozen.model, inputs)
    assert outputs != bare
    files = (program.script, program.payload, model_folders["llama"], inputs, Limits(seconds=100))
    assert run_files(*files) == outputs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_a_cache_each_token_is_read_once_and_the_files_give_the_same_outputs(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], architecture: str
) -> None:
    monkeypatch.setattr(text_codec, "_MOST_WITHOUT_CACHE", 0)
    folder = model_folders[architecture]
    frozen = frozen_from(folder)
    chosen = spec(architecture, steps=8, batch_size=1, learning_rate=0.03)
    read: list[int] = []

    def count(module: Any, values: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
        if "labels" not in named:
            assert not torch.is_grad_enabled()
            read.append(values[0].numel())

    with installed(frozen, chosen) as adapter:
        base = adapter.model.get_base_model()
        hook = base.register_forward_pre_hook(count, with_kwargs=True)
        learned = learn(frozen, adapter, TASK, 8, exact=True)
        hook.remove()
    assert learned.part.cache == "past_key_values"
    lengths = [len(frozen.tokenizer(t, add_special_tokens=False).input_ids) for t in texts(chosen)]
    assert read == [1] * sum(lengths)
    assert decoded_from(frozen, learned, learned.section) == texts(chosen)
    program, inputs, outputs = program_and_outputs(frozen, folder, chosen, 3)
    assert b"past_key_values" in readable_script(program.recipe).encode()
    assert (
        run_files(program.script, program.payload, folder, inputs, Limits(seconds=100)) == outputs
    )


def test_few_examples_are_coded_without_a_cache_as_before(frozen: FrozenModel) -> None:
    learned, _ = learned_from(frozen, spec())
    assert learned.part.cache == "none"
    assert "cache" not in learned.part.model_dump(exclude_defaults=True)
    assert "no_grad" not in "".join(data_statements(learned.part, False))


def test_a_damaged_payload_ends_the_program(
    frozen: FrozenModel, model_folders: dict[str, Path]
) -> None:
    program, inputs, _ = program_and_outputs(frozen, model_folders["llama"], spec(size=3), 1)
    damaged = bytearray(program.payload)
    damaged[2] ^= 255
    with pytest.raises(ProgramFailedError, match="AssertionError"):
        run_files(
            program.script, bytes(damaged), model_folders["llama"], inputs, Limits(seconds=100)
        )


def test_a_damaged_section_is_an_error_or_says_the_same(frozen: FrozenModel) -> None:
    chosen = spec(size=3, steps=2)
    learned, _ = learned_from(frozen, chosen)
    errors = 0
    # From the second byte on all are needed; the first is the last of the stream, and may not be.
    for place in (0, 1, 2, 3, 5, -3, -1):
        damaged = bytearray(learned.section)
        damaged[place] ^= 255
        try:
            assert decoded_from(frozen, learned, bytes(damaged)) == texts(chosen)
        except PayloadError:
            errors += 1
    assert errors >= 6


def test_a_shorter_section_is_an_error(frozen: FrozenModel) -> None:
    learned, _ = learned_from(frozen, spec(size=3))
    with pytest.raises(PayloadError):
        decoded_from(frozen, learned, learned.section[1:])
    # Past the end a decoder reads the first token for ever, which ends no example.
    with pytest.raises(PayloadError, match="example 0 does not end within 256 tokens"):
        decoded_from(frozen, learned, b"")


def test_other_floats_are_told_by_the_checksum(frozen: FrozenModel) -> None:
    learned, _ = learned_from(frozen, spec())
    # Too little for any table: only the last bits of the adapter's numbers change.
    changed = learned.part.model_copy(update={"learning_rate": 0.01 * (1 + 1e-6)})
    with pytest.raises(PayloadError, match="the checksum differs"):
        decoded_from(frozen, replace(learned, part=changed), learned.section)


def test_the_estimate_is_near_the_length_and_the_adapter_is_the_same(frozen: FrozenModel) -> None:
    coded, numbers = learned_from(frozen, spec())
    estimated, same = learned_from(frozen, spec(), exact=False)
    assert len(estimated.section) == pytest.approx(len(coded.section), rel=0.05, abs=2)
    assert estimated.part.checksum == coded.part.checksum
    assert all(torch.equal(a, b) for a, b in zip(numbers, same, strict=True))
    assert not any(estimated.section)


def test_a_course_that_is_cut_short_is_the_beginning_of_the_whole(frozen: FrozenModel) -> None:
    short, _ = learned_from(frozen, spec(steps=10), until=3)
    assert short.part.steps == 3
    assert short.part.full_steps == 10
    # Three steps of two reach six examples of eight.
    assert short.part.num_examples == 6
    assert decoded_from(frozen, short, short.section) == texts(spec())[:6]


def test_learning_makes_the_examples_shorter(frozen: FrozenModel) -> None:
    output = {"size": 20, "target_modules": ("lm_head",), "steps": 20, "batch_size": 1}
    slow, _ = learned_from(frozen, spec(**output, learning_rate=1e-9), exact=False)
    fast, _ = learned_from(frozen, spec(**output, learning_rate=0.03), exact=False)
    assert len(fast.section) < 0.9 * len(slow.section)
    assert fast.excess_bits > 100
    assert abs(slow.excess_bits) < 1


def test_excess_is_the_first_code_less_the_last(frozen: FrozenModel) -> None:
    chosen = spec(size=2, steps=4, learning_rate=0.03, target_modules=("lm_head",))
    with installed(frozen, chosen) as adapter:
        rows = [
            torch.tensor([[1, *frozen.tokenizer(text, add_special_tokens=False)["input_ids"]]])
            for text in texts(chosen)
        ]

        def bits() -> float:
            total = 0.0
            for row in rows:
                logs = adapter.model(row).logits.detach().double().log_softmax(-1)[0, :-1]
                total -= float(logs.gather(1, row[0, 1:, None]).sum()) / 0.6931471805599453
            return total

        before = bits()
        learned = learn(frozen, adapter, TASK, 1, exact=False)
        assert learned.part.num_examples == 2
        after = bits()
    assert learned.excess_bits == pytest.approx(before - after, abs=1e-2)
    assert learned.excess_bits > 1


def test_an_example_whose_answer_has_no_template_end_gets_an_end_token(frozen: FrozenModel) -> None:
    open_task = replace(TASK, answer=" {target}", stop=())
    learned, _ = learned_from(frozen, spec(), task=open_task)
    assert learned.part.end_token == frozen.tokenizer.eos_token_id
    assert decoded_from(frozen, learned, learned.section) == texts(spec(), open_task)
    closed, _ = learned_from(frozen, spec())
    assert closed.part.end_token == frozen.tokenizer("\n", add_special_tokens=False).input_ids[0]
    assert closed.part.end_count == 2


def test_more_examples_than_there_are_is_an_error(frozen: FrozenModel) -> None:
    with pytest.raises(ValueError, match="the train split has 512"):
        learned_from(frozen, spec(size=513, steps=300))


def test_a_loss_that_is_not_finite_ends_the_course(frozen: FrozenModel) -> None:
    with pytest.raises(FloatingPointError, match="the training loss became nan at example 2"):
        learned_from(frozen, spec(learning_rate=1e38, steps=40, size=2))


def test_the_evaluator_estimates_first_and_codes_in_the_last_rung(
    write_sweep: Any, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    sweep = load_sweep(write_sweep())
    setup = EvaluatorSetup(
        sweep.model_dump_json(), str(tmp_path), str(tmp_path / "run"), "llama", "llama-0", 1
    )
    evaluator, ledger = RungEvaluator(setup), Ledger(tmp_path / "run" / "ledger")
    candidate = Candidate(task="numbers", model="llama", adapter=spec(size=8, steps=4))
    first = evaluator.run_rung(candidate.canonical(), Rung(0, 4, 2)).record
    assert first.error is None
    assert first.train_steps == 2
    assert first.program is None
    assert rows_of(ledger, "programs") == []
    last = evaluator.run_rung(candidate.canonical(), Rung(1, 8, 4)).record
    assert last.error is None
    assert last.train_steps == 4
    assert last.excess_bits != first.excess_bits
    row = rows_of(ledger, "programs")[0]
    assert row["program"] == last.program
    assert last.payload_bits == 8 * len(row["payload"])
    # One program only: there are no coarser ones of the same adapter.
    assert len(rows_of(ledger, "rungs")) == 2
    outputs = [row["output"] for row in rows_of(ledger, "predictions") if row["rung"] == 1]
    inputs = [example.input for example in TASK.splits.search[:8]]
    files = (row["script"], row["payload"], model_folders["llama"], inputs)
    assert run_files(*files, Limits(seconds=100)) == outputs


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", [64, 512])
def test_many_examples_on_the_embedded_model(size: int) -> None:
    frozen = frozen_from(TINY)
    chosen = spec(size=size, steps=640, batch_size=1, learning_rate=1e-3, rank=4)
    program, inputs, outputs = program_and_outputs(frozen, TINY, chosen, 12)
    assert program.payload_bits < 70 * size
    limits = Limits(seconds=1000)
    assert run_files(program.script, program.payload, TINY, inputs, limits) == outputs
