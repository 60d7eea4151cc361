"""Directions of noise: a program's weights are the model's, changed as the search's updates say."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.packing.noise import chosen_weights, directions, with_noise
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.numbers import NumbersCode, encode_numbers
from kilobit.search.programs.program import decode
from kilobit.search.programs.recipe import AdapterPart, NoisePart, Recipe
from kilobit.search.programs.script import readable_script
from kilobit.search.programs.text import PayloadError


class Small(nn.Module):
    """Two blocks with a linear module, its transposed twin, and another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.device = torch.device("cpu")
        self.layers = nn.ModuleList()
        for _ in range(2):
            block = nn.ModuleDict({"up": nn.Linear(6, 5), "down": Conv1D(6, 5)})
            self.layers.append(block)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.layers:
            x = x + block["down"](torch.tanh(block["up"](x)))
        return self.head(x)


def noise(**changes: Any) -> NoisePart:
    values = {"draws": (3, 11), "size": 4, "targets": ("up", "down", "head")}
    return NoisePart.model_validate({k: v for k, v in (values | changes).items() if v is not None})


def as_in_a_program(model: nn.Module, part: NoisePart, values: Sequence[float]) -> None:
    """Change a model by the statements of its program."""
    method = "seeds" if part.rank else "coordinates"
    adapter = AdapterPart(
        method=method,
        noise=part,
        shapes=((1, len(values)),),
        numbers=NumbersCode(coder="packed"),
        delta=True,
    )
    recipe = Recipe(question="{input}", batch_size=1, max_new_tokens=1, adapter=adapter)
    lines = readable_script(recipe).split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith("inputs ="))
    start = next(i for i, line in enumerate(lines) if line.startswith(("weights =", "for place")))
    model.numbers = nn.Parameter(torch.tensor(values))
    with torch.no_grad():
        names = {
            "model": model,
            "torch": torch,
            "numpy": np,
            "hashlib": hashlib,
            "re": __import__("re"),
        }
        exec("\n".join(lines[start:first]), names)
    del model.numbers


PARTS = {
    "coordinates": noise(),
    "coordinates that meet": noise(size=200),
    "one layer": noise(layers=(1,), targets=("up", "down")),
    "seeds": noise(size=None, rank=1),
    "seeds of rank 3": noise(size=None, rank=3, targets=("down",)),
}


@pytest.mark.parametrize("name", PARTS)
def test_updates_are_the_weights_of_the_program(name: str) -> None:
    part, inputs = PARTS[name], torch.randn(3, 6)
    count = len(part.draws) * (part.size or 1)
    values = [0.25 * (i % 7 - 3) or 0.125 for i in range(count)]
    model, changed = Small(), Small()
    as_in_a_program(changed, part, values)
    bare, expected = model(inputs), changed(inputs)
    assert not torch.allclose(bare, expected, atol=1e-3)
    with with_noise(model, part) as numbers:
        assert torch.equal(model(inputs), bare)
        numbers.data[:] = torch.tensor(values)
        found = model(inputs)
        found.sum().backward()
        assert numbers.grad is not None
        assert numbers.grad.abs().sum() > 0
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(model(inputs), bare)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in Small().named_parameters()]


def test_only_the_named_modules_of_the_layers_change() -> None:
    part = noise(layers=(1,), targets=("up", "layers.1.down"), size=50)
    model, changed = Small(), Small()
    as_in_a_program(changed, part, [1.0] * 100)
    pairs = zip(model.named_parameters(), changed.parameters(), strict=True)
    assert {name for (name, a), b in pairs if not torch.equal(a, b)} == {
        "layers.1.up.weight", "layers.1.down.weight"
    }  # fmt: skip
    assert list(chosen_weights(model, part)) == ["layers.1.up", "layers.1.down"]


def test_an_expert_is_no_layer_and_a_part_of_a_word_no_module() -> None:
    model = nn.ModuleDict()
    for name in ("layers", "wide"):
        model[name] = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(2, 2)}) for _ in range(2)])
        for block in model[name]:
            experts = [nn.ModuleDict({"up": nn.Linear(2, 2)}) for _ in range(2)]
            block["experts"] = nn.ModuleList(experts)
            block["gate_up"] = nn.Linear(2, 2)
    found = chosen_weights(model, noise(layers=(1,), targets=("up",)))
    assert set(found) == {f"{top}.1.{rest}" for top in ("layers", "wide") for rest in
                          ("up", "experts.0.up", "experts.1.up")}  # fmt: skip


def test_directions_are_what_they_were() -> None:
    model = Small()
    for method, part in (("coordinates", noise()), ("seeds", noise(size=None, rank=2))):
        count = len(part.draws) * (part.size or 1)
        found = directions(model, part, torch.arange(1.0, count + 1))
        text = hashlib.sha256()
        for name, factors in found.items():
            for factor in factors():
                text.update(f"{name} {factor.tolist()}".encode())
        assert text.hexdigest()[:16] == DIGESTS[method]


DIGESTS = {"coordinates": "1ef6cbed498e12a4", "seeds": "b1cfa5605c143e1f"}


def test_numbers_of_noise_are_these_bytes() -> None:
    integers = [np.array([[3, -2, 0, 1, 1, -1, 0, 2]], np.int32)]
    packed = encode_numbers(170, integers, NumbersCode(coder="packed"))
    assert packed is not None
    assert packed.hex() == "aa0744e654"


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xaa", b"\xaa\x06\x01", b"\xaa\x07" + b"\xff" * 9, b"\xaa\x07\xff\xff\xff\xff"],
)
def test_a_hostile_payload_is_refused(payload: bytes) -> None:
    part = AdapterPart(
        method="coordinates",
        noise=noise(),
        shapes=((1, 8),),
        numbers=NumbersCode(coder="packed"),
        delta=True,
    )
    recipe = Recipe(question="{input}", batch_size=1, max_new_tokens=1, adapter=part)
    with pytest.raises(PayloadError):
        decode(recipe, payload)


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("lora", noise()),
        ("coordinates", None),
        ("coordinates", noise(size=None, rank=1)),
        ("seeds", noise()),
    ],
)
def test_a_recipe_has_the_noise_of_its_method(method: str, part: NoisePart | None) -> None:
    with pytest.raises(ValueError, match="its noise is missing, or not of its kind"):
        AdapterPart(
            method=method, noise=part, shapes=((1, 8),), numbers=NumbersCode(coder="packed")
        )


@pytest.mark.parametrize(
    "changes", [{"draws": ()}, {"draws": (-1,)}, {"draws": (1 << 63,)}, {"rank": 1}, {"size": 0},
                {"targets": ()}, {"layers": ()}, {"code": "x"}],
)  # fmt: skip
def test_hostile_noise_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="NoisePart"):
        noise(**changes)


def test_names_in_a_recipe_are_no_code_and_no_pattern() -> None:
    part = noise(targets=("'); import os #", "u.", "(up"))
    with pytest.raises(ValueError, match="no module of the model is called one of"):
        chosen_weights(Small(), part)


def test_a_weight_that_is_no_matrix_of_numbers_is_refused() -> None:
    model = Small()
    model.layers[0]["up"].weight = nn.Parameter(torch.ones(5, 6).to(torch.uint8), False)
    with pytest.raises(ValueError, match="is quantised or no matrix"), with_noise(model, noise()):
        pass


def test_an_error_leaves_no_hook_and_no_parameter(model_folders: dict[str, Path]) -> None:
    frozen = load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())
    part = noise(targets=("q_proj",))
    with pytest.raises(KeyError), with_noise(frozen.model, part):
        raise KeyError
    assert not any(module._forward_hooks for module in frozen.model.modules())
    assert weights_digest(frozen.model) == frozen.digest
