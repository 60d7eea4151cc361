"""Adapters on a resident base model: install, train, read the numbers, remove.

PEFT provides all methods but `weights`, which replaces base weights by trained copies, and those
that draw noise (`kilobit.evaluators.model.packing.noise`). The base weights are never written.
`installed` always removes the adapter, also after an error, and the caller compares the digest of
the base model afterwards.

The model is changed exactly as program.py changes it (`kilobit.search.programs.script`): the same
configuration, the same rule for signs, the same order of numbers.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from kilobit.evaluators.model.base_model import Factors, FrozenModel, has_factors
from kilobit.evaluators.model.machine import is_quantised
from kilobit.evaluators.model.packing.noise import chosen_weights, with_noise
from kilobit.evaluators.model.rate_training import LearnedBits, Signs, rows_of, transform_of
from kilobit.evaluators.model.training_batches import (
    Lesson,
    finite_loss,
    mean_of_last,
    training_batch,
)
from kilobit.search.adapter_methods import AdapterSpec, peft_config
from kilobit.search.programs.numbers import Integers, NumbersCode, Tensor
from kilobit.search.programs.recipe import AdapterPart, noise_part
from kilobit.search.reward_training import RewardTraining, Scores
from kilobit.search.streams import stream_seed

_WARM_UP_STEPS = 5
# Gates begin fully open and have further to move than numbers, so they learn faster.
_LEARNED_FACTOR = 10.0
_Array = TypeVar("_Array", Tensor, Integers)


@dataclass
class Trained:
    """Result of a stretch of training: steps so far, mean loss of the last steps, tokens seen."""

    steps: int
    loss: float | None
    tokens: int


class Adapter:
    """An adapter on a model, with its optimizer.

    Attributes:
        model: the adapted model; PEFT's model, or the base model with other weights.
        spec: the adapter's method, shape and training.
        transform: maps the trained numbers to the values of the forward pass, None for plain
            training.
        reward: the state of training by reward, None for other training.
        masters: the trained numbers, by name: the model's parameters or the transform's inputs.
        units: positions of tensors whose rows belong together, see
            `kilobit.search.programs.coarsening`.
    """

    def __init__(
        self, model: Any, spec: AdapterSpec, weights: dict[str, Any], factor_sum: float | None
    ) -> None:
        self.model, self.spec, self.steps = model, spec, 0
        self._weights, self._factor_sum = weights, factor_sum
        self._stand_ins: tuple[Mapping[str, torch.Tensor], torch.Tensor] = ({}, torch.zeros(()))
        self._initial = {name: w.detach().clone() for name, w in weights.items()}
        self.transform = transform_of(spec, weights)
        # The trained numbers: the model's own parameters, or copies that the transform reads.
        self.masters = dict(weights)
        if self.transform is not None:
            self.masters = {
                name: w.detach().clone().requires_grad_() for name, w in weights.items()
            }
        learned = {} if self.transform is None else self.transform.learned
        self._trained = self.masters | learned
        # Of factors, B may learn faster than A.
        root, factors = math.sqrt(spec.ratio), dict[float, list[torch.Tensor]]()
        for name, weight in self.masters.items():
            factor = 1 / root if "lora_A" in name else root
            factors.setdefault(factor, []).append(weight)
        groups = [{"params": own, "factor": factor} for factor, own in factors.items()]
        if learned:
            groups.append({"params": list(learned.values()), "factor": _LEARNED_FACTOR})
        unit = self._unit_of_rates() if spec.relative else 1.0
        self._learning_rate = spec.learning_rate * unit
        self._optimizer = torch.optim.AdamW(groups, lr=self._learning_rate, weight_decay=0.0)
        names = list(weights)
        firsts = {n.replace("lora_A", "lora_B"): i for i, n in enumerate(names) if "lora_A" in n}
        self.units = [
            (firsts[name], i) if name in firsts else (i,)
            for i, name in enumerate(names)
            if "lora_A" not in name
        ]
        # A component of a pair is a row of A [rank, inputs] and a column of B [outputs, rank].
        self._turned = {
            i
            for i, (name, w) in enumerate(weights.items())
            if (name.endswith("lora_A.default.weight") and len(w) > w.shape[1])
            or (name.endswith("lora_B.default.weight") and len(w) <= w.shape[1])
        }

        shapes = [(int(rows), int(columns)) for rows, columns in self._shapes()]
        by_reward = spec.training == "reward"
        self.reward = RewardTraining(spec, shapes, self._learning_rate) if by_reward else None

    def _unit_of_rates(self) -> float:
        """Return the learning rate that a relative rate of 1 stands for."""
        unit, noise = self.spec.traits.unit, noise_part(self.spec)
        if unit is not None and noise is not None:
            weights = chosen_weights(self.model, noise).values()
            return unit(self.spec, [(weight.shape[0], weight.shape[1]) for weight in weights])
        if unit is not None:
            modules: list[Any] = [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
            return unit(self.spec, [(m.out_features, m.in_features) for m in modules])
        numbers = [weight.detach().double() for weight in self._initial.values()]
        power = sum(float((weight**2).sum()) for weight in numbers)
        # A model whose weights are all zero has no size; any rate is as good.
        return math.sqrt(power / sum(weight.numel() for weight in numbers)) or 1.0

    def train(self, frozen: FrozenModel, lesson: Lesson, until: int) -> Trained:
        """Train up to step `until`.

        A step's examples depend on the seed and the step's number alone, so training in several
        stretches gives the same result as training in one.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        tokens, losses = 0, []
        for step in range(self.steps, until):
            batch = training_batch(frozen, lesson, self.spec, step)
            self.begin_step(step)
            # RWKV would write its state in place, which no gradient survives.
            loss = self.model(**batch, use_cache=False).loss
            losses.append(finite_loss(float(loss.detach()), step))
            loss.backward()
            self.end_step(step)
            tokens += int(batch["attention_mask"].sum())
        self.finish(until)
        return Trained(self.steps, mean_of_last(losses), tokens)

    def begin_step(self, step: int) -> None:
        """Write the values of step `step` to the model, before its forward pass."""
        if self.transform is not None:
            generator = torch.Generator().manual_seed(stream_seed(self.spec.seed, "noise", step))
            self._stand_ins = self.transform(self.masters, generator)
            self._write(self._stand_ins[0])

    def end_step(self, step: int) -> None:
        """Take the optimizer's step `step` with the gradients of the last backward pass."""
        if self.transform is not None:
            # Apply the chain rule by hand: the model holds the values, not the trained numbers.
            values, penalty = self._stand_ins
            gradients = [weight.grad for weight in self._weights.values()]
            torch.autograd.backward([*values.values(), penalty], [*gradients, torch.ones(())])
            for weight in self._weights.values():
                weight.grad = None
        share = min(1 - step / self.spec.steps, (step + 1) / _WARM_UP_STEPS)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * share * group["factor"]
        torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def show(self, numbers: Sequence[Tensor]) -> None:
        """Set the numbers of a training by reward, those of a member or of the middle."""
        assert self.reward is not None
        # A program's numbers are differences from the start wherever it can draw the start again.
        from_seed = self.pairs_from_seed and self.reward.base is None
        self.assign(numbers, from_seed or self.spec.traits.delta)

    def learn(self, scores: Sequence[Scores]) -> None:
        """End a generation of a training by reward, given the scores of each member."""
        assert self.reward is not None
        self.reward.learn(scores)
        self.steps += 1
        self.show(self.reward.numbers())

    def finish(self, until: int) -> None:
        """Write the final values after step `until` to the model."""
        self.steps = max(self.steps, until)
        self._write(self._final())

    @property
    def weights(self) -> dict[str, Any]:
        """Return the weights that a forward pass uses, by name."""
        return self._weights

    @torch.no_grad()
    def _write(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])

    def _final(self) -> Mapping[str, torch.Tensor]:
        return self.masters if self.transform is None else self.transform.final(self.masters)

    def tensors(self) -> list[Tensor]:
        """Return the numbers as a program writes them: rows along the longer side.

        For methods with `delta` they are differences from the initial numbers.
        """
        delta = self.spec.traits.delta
        found = []
        for name, weight in self._final().items():
            value = weight.detach().float()
            if delta:
                value = value - self._initial[name].float()
            found.append(rows_of(value).cpu().numpy().copy())
        return found

    @property
    def pairs_from_seed(self) -> bool:
        """Return whether all numbers are factors A and B in turn, of which A began at random.

        Those of a given adapter began elsewhere.
        """
        in_turn = [(i, i + 1) for i in range(0, len(self._weights), 2)]
        random_start = self.spec.traits.seeded_start and self.spec.given is None
        return random_start and self.units == in_turn

    def starts(self) -> list[Tensor]:
        """Return the numbers that the adapter began with: rows along the longer side."""
        return [rows_of(value.float()).cpu().numpy() for value in self._initial.values()]

    def by_component(self, tensors: Sequence[_Array]) -> list[_Array]:
        """Return tensors, as `tensors` writes them, with a component of a pair in each row.

        Those of a rank that is not smaller than a layer's side are written the other way; called on
        the result, it turns them back.
        """
        return [tensor.T if i in self._turned else tensor for i, tensor in enumerate(tensors)]

    def learned_steps(self) -> list[float] | None:
        """Return the quantisation step of each tensor if training learned them, else None."""
        if isinstance(self.transform, Signs):
            return [self.transform.size(name, w) for name, w in self.masters.items()]
        if not isinstance(self.transform, LearnedBits):
            return None
        return [self.transform.step(name) for name in self.masters]

    @torch.no_grad()
    def assign(self, tensors: Sequence[Tensor], delta: bool | None = None) -> None:
        """Set all numbers as program.py does.

        Args:
            tensors: the numbers; none for an adapter that is not in its program, because it would
                change nothing.
            delta: they are differences from the initial numbers; by default as `tensors` has them.

        Raises:
            ValueError: if the tensors are not of the adapter's shapes.
        """
        if not tensors:
            tensors = [np.zeros_like(start) for start in self.starts()]
        if [t.shape for t in tensors] != self._shapes():
            raise ValueError("the numbers of the payload have other shapes than the adapter")
        delta = self.spec.traits.delta if delta is None else delta
        for (name, weight), tensor in zip(self._weights.items(), tensors, strict=True):
            weight.copy_(self._initial[name] if delta else torch.zeros_like(weight))
            rows = rows_of(weight.data)
            rows += torch.from_numpy(np.ascontiguousarray(tensor)).to(rows)

    def _shapes(self) -> list[tuple[int, ...]]:
        return [tuple(rows_of(weight).shape) for weight in self._weights.values()]

    def part(self, numbers: NumbersCode, *, from_seed: bool = False) -> AdapterPart:
        """Return the adapter's part of a recipe; `from_seed` is for differences from its start."""
        config = peft_config(self.spec)
        noise = noise_part(self.spec)
        return AdapterPart(
            method=self.spec.method,
            config=config[0] if config else None,
            arguments=config[1] if config else {},
            targets=() if config or noise else self.spec.target_modules or (),
            noise=noise,
            shapes=tuple((int(rows), int(columns)) for rows, columns in self._shapes()),
            numbers=numbers,
            delta=from_seed or self.spec.traits.delta,
            seed=stream_seed(self.spec.seed, "init") if from_seed else None,
            factor_sum=self._factor_sum,
        )

    def state(self) -> bytes:
        """Return the checkpoint: numbers, optimizer moments and step as safetensors bytes."""
        tensors = {"steps": torch.tensor(self.steps)}
        for name, weight in self._trained.items():
            tensors[f"weight/{name}"] = weight.detach().cpu().contiguous()
            for key, moment in self._optimizer.state.get(weight, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(moment).detach().cpu().contiguous()
        if self.reward is not None:
            tensors["signs"] = torch.tensor(self.reward.replay.signs, dtype=torch.int8)
            for i, start in enumerate(self.reward.base or ()):
                tensors[f"base/{i}"] = torch.from_numpy(start)
        return save_tensors(tensors)

    @torch.no_grad()
    def restore(self, state: bytes) -> None:
        """Restore a checkpoint that `state` returned.

        Raises:
            ValueError: if the checkpoint belongs to another adapter.
        """
        tensors = load_tensors(state)
        if {f"weight/{name}" for name in self._trained} != {
            name for name in tensors if name.startswith("weight/")
        }:
            raise ValueError("the checkpoint belongs to another adapter")
        for name, weight in self._trained.items():
            weight.copy_(tensors[f"weight/{name}"].to(weight.device))
            moments = {
                key: tensors[f"{key}/{name}"].to("cpu" if key == "step" else weight.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
            if moments:
                self._optimizer.state[weight] = moments
        self.steps = int(tensors["steps"])
        if self.reward is not None:
            bases = [
                tensors[key]
                for key in (f"base/{i}" for i in range(len(self._weights)))
                if key in tensors
            ]
            self.reward.base = [base.numpy() for base in bases] or None
            for sign in tensors["signs"].tolist():
                self.reward.replay.add(sign)
        self._write(self._final())


@contextmanager
def installed(frozen: FrozenModel, spec: AdapterSpec, seed: int | None = None) -> Iterator[Adapter]:
    """Install an untrained adapter on the model, and remove it at the end in any case.

    Args:
        frozen: the base model.
        spec: the adapter.
        seed: of the numbers that it begins with; by default from the seed of `spec`.

    Raises:
        ValueError: if the model has no module or weight that the adapter targets.
    """
    noise = noise_part(spec)
    if noise is not None:
        with with_noise(frozen.model, noise) as numbers:
            yield Adapter(frozen.model, spec, {"numbers": numbers}, None)
        return
    if peft_config(spec) is None:
        with _own_weights(frozen.model, spec) as weights:
            yield Adapter(frozen.model, spec, weights, None)
        return
    try:
        yield install(frozen, spec, seed)
    finally:
        remove_adapter(frozen.model)


def install(frozen: FrozenModel, spec: AdapterSpec, seed: int | None = None) -> Adapter:
    """Return an untrained adapter of PEFT's on the model, which stays until `remove_adapter`.

    The arguments and errors are those of `installed`.
    """
    found, method = peft_config(spec), spec.traits
    assert found is not None, "trained copies of weights are installed for a time only"
    if seed is None:
        seed = stream_seed(spec.seed, "init") if method.seed is None else method.seed
    config, rank = getattr(peft, found[0])(**found[1]), factored_rank(spec)
    factors = nullcontext() if rank is None else _factors_once(frozen.factors, rank)
    with torch.random.fork_rng(), warnings.catch_warnings(), factors:
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = peft.get_peft_model(frozen.model, config)
    if method.trains:
        for name, weight in model.named_parameters():
            weight.requires_grad_(method.trains in name)
    factor_sum = _fix_factors(model, spec)
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
    return Adapter(model, spec, weights, factor_sum)


def remove_adapter(model: Any) -> None:
    """Put the base layers of a model back, also those of an adapter that PEFT refused half-way."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(parent, name, child.get_base_layer())
            elif isinstance(child, AuxiliaryTrainingWrapper):
                setattr(parent, name, child.original_module)
    # PEFT leaves its configuration on the model; a second adapter would warn about the first.
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(model).pop(name, None)
    model.requires_grad_(False)


def factored_rank(spec: AdapterSpec) -> int | None:
    """Return the number of SVD factors of each weight that PEFT takes, None if it takes none."""
    found = peft_config(spec)
    if found is None or found[0] != "TinyLoraConfig":
        return None
    return int(found[1].get("r", peft.TinyLoraConfig.r))


@contextmanager
def _factors_once(factors: dict[str, Factors], rank: int) -> Iterator[None]:
    """Let PEFT factor the weight of each module once, and not again for the next adapter.

    A quantised weight is dequantised for it, one at a time; PEFT would factor its bytes. program.py
    does the same, see `kilobit.search.programs.script`.

    Args:
        factors: the leading factors of weights by module, to which new ones are added.
        rank: number of factors that PEFT takes of each weight.
    """
    tuners: Any = peft.TinyLoraModel
    build, computed = tuners._create_and_replace, torch.linalg.svd  # noqa: SLF001 - no public name
    now = ""

    def svd(weight: torch.Tensor, full_matrices: bool = True) -> tuple[torch.Tensor, ...]:
        if not has_factors(factors, now, rank):
            left, values, right = computed(weight, full_matrices=full_matrices)
            kept = left[:, :rank].clone(), values[:rank].clone(), right[:rank].clone()
            factors[now] = Factors(*kept, weight.new_zeros(()).expand(weight.shape))
        return tuple(factors[now][:3])

    def build_from_kept(
        tuner: Any, config: Any, name: str, target: Any, *rest: Any, current_key: str
    ) -> None:
        nonlocal now
        now, weight = current_key, target.weight
        known = has_factors(factors, now, rank)
        if is_quantised(target):
            plain = factors[now].like if known else dequantize_module_weight(target)
            target.weight = torch.nn.Parameter(plain, requires_grad=False)
        try:
            build(tuner, config, name, target, *rest, current_key=current_key)
            if not known:
                # PEFT gives the factors the weight's type, which the SVD does not see.
                like = target.weight.data.new_zeros(()).expand(target.weight.shape)
                factors[now] = factors[now]._replace(like=like)
        finally:
            target.weight = weight

    torch.linalg.svd, tuners._create_and_replace = svd, build_from_kept  # noqa: SLF001 - see above
    try:
        yield
    finally:
        torch.linalg.svd, tuners._create_and_replace = computed, build  # noqa: SLF001 - see above


@torch.no_grad()
def _fix_factors(model: Any, spec: AdapterSpec) -> float | None:
    """Fix the signs of SVD factors and return the sum of all right factors.

    Each row of a right factor gets a positive sum: the sign that LAPACK returns differs between
    machines. The sum is None if the method has no SVD factors.
    """
    total: float | None = None
    for module in model.modules():
        if not hasattr(module, "tinylora_A"):
            continue
        first, second = module.tinylora_A["default"], module.tinylora_B["default"]
        signs = first.sum(1, True).sign()
        first *= signs
        second *= signs.T
        total = (total or 0.0) + float(first.sum())
        if spec.traits.square:
            rank = spec.rank or 0
            module.tinylora_P["default"][:] = torch.eye(rank * rank).view(-1, rank, rank)
    return None if total is None else round(total, 1)


@contextmanager
def _own_weights(model: Any, spec: AdapterSpec) -> Iterator[dict[str, Any]]:
    """Replace the parameters whose names contain a target by copies until the end."""
    originals = {
        name: weight
        for name, weight in model.named_parameters()
        if any(target in name for target in spec.target_modules or ())
    }
    if not originals:
        raise ValueError(f"no parameter's name contains one of {spec.target_modules}")
    for name, weight in originals.items():
        if not weight.is_floating_point():
            raise ValueError(f"{name} is quantised, so it can't be trained: use another target")
    copies = {name: torch.nn.Parameter(w.detach().clone()) for name, w in originals.items()}
    by_original = {id(weight): copies[name] for name, weight in originals.items()}
    attributes = [
        (module, name, weight)
        for module in model.modules()
        # A tied weight belongs to several modules, and the copy has to be in all of them.
        for name, weight in module.named_parameters(recurse=False)
        if id(weight) in by_original
    ]
    try:
        for module, name, weight in attributes:
            setattr(module, name, by_original[id(weight)])
        yield copies
    finally:
        for module, name, weight in attributes:
            setattr(module, name, weight)
