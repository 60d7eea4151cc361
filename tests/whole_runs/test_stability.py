"""What gives the same bits whatever it runs with, and what only nearly does.

Reading a payload never depends on threads or batches. Outputs are the same where batches and
threads are; across them logits differ in their last bits, which tips a near tie between two tokens
sooner or later, so a recipe names its batch size.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.oracles import run_program
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.program import Program, decode
from tests.conftest import REPOSITORY, random_numbers
from tests.support.recipes import adapter_spec

TASK = load_miniature("numbers", 0)
CONFIG = BaseModelConfig(regime="m", path=REPOSITORY / "examples" / "tiny" / "pretrained")
INPUTS = [e.input for e in TASK.splits.search[:64]]
PROMPT = Prompt(demonstrations=tuple((e.input, e.target) for e in TASK.splits.train[:1]))
# Measured with AVX-512: 5.5e-5 between batches of 1 and of 8 or 64, 0 between 1 and 2 threads.
MOST_LOGIT_DIFFERENCE = 1e-4


@pytest.fixture(scope="module")
def frozen() -> FrozenModel:
    return load(CONFIG, Path())


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def program(frozen: FrozenModel, batch_size: int) -> tuple[Program, str]:
    builder = Builder(frozen, CONFIG, TASK, batch_size, "program")
    candidate = Candidate(task="numbers", model="m", prompt=PROMPT, max_new_tokens=4)
    text = PROMPT.render(TASK)
    return builder.build(candidate, builder.code_text(candidate, by_model=False), None, ()), text


def outputs(frozen: FrozenModel, batch_size: int, threads: int) -> list[str]:
    torch.set_num_threads(threads)
    made, text = program(frozen, batch_size)
    return run_program(made, text, frozen, frozen.model, INPUTS)


@torch.no_grad()
def logits(frozen: FrozenModel, batch_size: int, threads: int) -> torch.Tensor:
    """Return the logits of the first new token of every input, with the padding of its batch."""
    torch.set_num_threads(threads)
    prompts, found = [PROMPT.render(TASK) + TASK.ask(text) for text in INPUTS], []
    for first in range(0, len(prompts), batch_size):
        chunk = prompts[first : first + batch_size]
        batch = frozen.tokenizer(chunk, padding=True, return_tensors="pt")
        positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        out = frozen.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions
        )
        found.append(out.logits[:, -1])
    return torch.cat(found)


WAYS = [(size, threads) for size in (1, 8, 64) for threads in (1, 2)]


def test_the_same_batches_and_threads_give_the_same_bits(frozen: FrozenModel) -> None:
    for size, threads in ((8, 2), (64, 1)):
        assert torch.equal(logits(frozen, size, threads), logits(frozen, size, threads))
        assert outputs(frozen, size, threads) == outputs(frozen, size, threads)


def test_other_batches_and_threads_give_nearly_the_same_logits_and_the_same_outputs(
    frozen: FrozenModel,
) -> None:
    first, said = logits(frozen, 1, 1), outputs(frozen, 1, 1)
    differences = {}
    for size, threads in WAYS:
        differences[size, threads] = float((logits(frozen, size, threads) - first).abs().max())
    for size, threads in ((1, 2), (8, 1), (64, 1), (64, 2)):
        assert outputs(frozen, size, threads) == said, (size, threads)
    assert max(differences.values()) < MOST_LOGIT_DIFFERENCE


def test_reading_a_payload_depends_on_no_thread_and_no_batch(frozen: FrozenModel) -> None:
    spec = adapter_spec("lora", target_modules=("q_proj", "v_proj"))
    builder = Builder(frozen, CONFIG, TASK, 8, "payload")
    candidate = Candidate(task="numbers", model="m", prompt=PROMPT, adapter=spec)
    texts = builder.code_text(candidate, by_model=False)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with installed(frozen, spec) as adapter:
            # Factors of a rotation may differ; the program is made once and read with both.
            made = (
                found[0][0]
                if found
                else builder.build(candidate, texts, adapter, random_numbers(adapter))
            )
            decoded = decode(made.recipe, made.payload)
            adapter.assign(decoded.tensors, decoded.delta)
            found.append((made, decode(made.recipe, made.payload), adapter.tensors()))
    (_, one, assigned), (_, two, again) = found
    assert one.prompt == two.prompt == PROMPT.render(TASK)
    for a, b, c, d in zip(one.tensors, two.tensors, assigned, again, strict=True):
        assert a.tobytes() == b.tobytes()
        assert np.array_equal(c, d)
        assert np.array_equal(a, c)
