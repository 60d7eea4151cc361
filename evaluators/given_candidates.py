"""Candidates from elsewhere: prompts in files, and adapters in the folders that PEFT writes.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Both come from strangers:
nothing is unpickled or executed, no path in them is opened, no pattern of theirs is matched by a
matcher that may take exponential time, and an option that would change what the adapter does is
refused unless it is understood. The numbers become those of an adapter of this project with the
same outputs: factors of LoRA take up its scaling, and ranks that differ between modules are filled
up with zeros.

Errors are `ValueError`, naming file, field, value and what is allowed.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import re2

from kilobit.evaluators.text_files import json_lines, parsed, read_file, text_lines
from kilobit.search.adapter_methods import LORA_SCALING, AdapterSpec
from kilobit.search.candidate import Candidate, Given, GivenAdapter, GivenPrompt
from kilobit.search.settings import reason_of
from kilobit.search.task import Task

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MOST_CONFIG_BYTES = 1 << 20
_PREFIX = "base_model.model."
# A name of modules, or part of one; `^` and `$` are what PEFT's own tools write around it.
_NAME = re.compile(r"\^?[\w.-]+\$?")
# Options that change no output of a saved adapter, for all methods.
_OF_ALL = frozenset(
    {
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    }
)
# Starts of LoRA that change the weights of the base model too, so the factors alone say too little.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class _Kind:
    """Method of this project for a `peft_type`, and the options that are understood.

    Attributes:
        method: the method of this project with the same outputs.
        config: PEFT's class of its configuration.
        options: names of the options that are passed on to it.
        without_effect: names of further options that change no output of a saved adapter.
    """

    method: str
    config: str
    options: tuple[str, ...]
    without_effect: tuple[str, ...] = ()


_PLACES = ("target_modules", "exclude_modules")
_KINDS = {
    "LORA": _Kind(
        "lora",
        "LoraConfig",
        (
            "r",
            "lora_alpha",
            "use_rslora",
            "rank_pattern",
            "alpha_pattern",
            "layers_to_transform",
            "layers_pattern",
            *_PLACES,
        ),
        (
            "lora_dropout",
            "fan_in_fan_out",
            "init_lora_weights",
            "megatron_core",
            "qalora_group_size",
            "eva_config",
            "runtime_config",
        ),
    ),
    "IA3": _Kind(
        "ia3",
        "IA3Config",
        ("feedforward_modules", *_PLACES),
        ("fan_in_fan_out", "init_ia3_weights"),
    ),
    "LN_TUNING": _Kind("ln_tuning", "LNTuningConfig", _PLACES),
    "PROMPT_TUNING": _Kind(
        "soft_prompt",
        "PromptTuningConfig",
        ("num_virtual_tokens",),
        (
            "token_dim",
            "num_transformer_submodules",
            "num_attention_heads",
            "num_layers",
            "prompt_tuning_init",
            "prompt_tuning_init_text",
            "tokenizer_name_or_path",
            "tokenizer_kwargs",
        ),
    ),
}


@dataclass(frozen=True)
class PeftFolder:
    """An adapter as PEFT saved it, read and checked without its base model.

    Attributes:
        folder: where it is.
        digest: 16 hex digits of a hash of both files.
        kind: its `peft_type`.
        options: the options that decide what it does.
        tensors: its numbers by PEFT's names, in float32.
    """

    folder: Path
    digest: str
    kind: str
    options: Mapping[str, Any]
    tensors: Mapping[str, Any] = field(repr=False)

    @property
    def modules(self) -> list[str]:
        """Return the names of the base model's modules that it changes, none for a soft prompt."""
        if self.kind == "PROMPT_TUNING":
            return []
        # base_model.model.MODULE.lora_A.weight, .ia3_l, .ln_tuning_layers.weight
        ends = re.compile(r"\.(lora_[AB]\.weight|ia3_l|ln_tuning_layers\.weight)$")
        found = {ends.sub("", name.removeprefix(_PREFIX)) for name in self.tensors}
        return sorted(found)

    def check_on(self, model: Any, where: str) -> None:
        """Check that the tensors are those that its configuration asks for on a base model.

        Args:
            model: the base model on the meta device; it is left as it was.
            where: its path or name, for messages.

        Raises:
            ValueError: naming file and tensor, if one is missing, has another shape, or is left
                over.
        """
        import torch
        from peft import get_peft_model

        from kilobit.evaluators.model.adapters import remove_adapter

        options, file = dict(self.options), self.folder / _CONFIG
        if isinstance(options.get("target_modules"), str):
            names = [name for name, _ in model.named_modules() if name]
            options["target_modules"] = self._matching(options["target_modules"], names)
        try:
            with torch.device("meta"):
                adapted = get_peft_model(model, _configuration(self.kind, options))
            asked = {
                _file_name(name): tuple(weight.shape)
                for name, weight in adapted.named_parameters()
                if weight.requires_grad
            }
        except Exception as error:  # PEFT raises many types here
            why = reason_of(error)
            raise ValueError(f"{file}: {where} can't have this adapter: {why}") from error
        finally:
            remove_adapter(model)
        there = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        file = self.folder / _WEIGHTS
        for name, shape in asked.items():
            if name not in there:
                raise ValueError(f"{file}: {name} is missing, which {_CONFIG} needs on {where}")
            if there[name] != shape:
                raise ValueError(
                    f"{file}: {name} has the shape {there[name]}; {where} needs {shape}"
                )
        for name in sorted(there):
            if name not in asked:
                raise ValueError(
                    f"{file}: {name} belongs to no module of {where} that {_CONFIG} names"
                )

    def _matching(self, pattern: str, names: Iterable[str]) -> list[str]:
        """Return the names that a pattern matches, in time linear in their length."""
        options = re2.Options()
        options.log_errors = False
        where = f"{self.folder / _CONFIG}: target_modules"
        try:
            compiled = re2.compile(pattern, options)
        except re2.error as error:
            raise ValueError(
                f"{where}: a pattern that RE2 can match, or a list of names, is allowed (found "
                f"{pattern!r:.80})"
            ) from error
        found = [name for name in names if compiled.fullmatch(name)]
        if not found:
            raise ValueError(f"{where}: {pattern!r:.80} matches no module")
        return found

    def spec(self, parameters: Iterable[str]) -> AdapterSpec:
        """Return the adapter of this project that takes its numbers, in the shortest words.

        Args:
            parameters: names of the base model's parameters.
        """
        shape: dict[str, Any] = {}
        if self.kind == "PROMPT_TUNING":
            return self._spec(size=self.options["num_virtual_tokens"])
        if self.kind == "LORA":
            ranks = [len(t) for name, t in self.tensors.items() if ".lora_A." in name]
            shape["rank"] = max(ranks)
        modules = set(self.modules)
        parts = (name.split(".") for name in parameters)
        every = {".".join(words[:at]) for words in parts for at in range(1, len(words))}
        leaves = tuple(sorted({name.rpartition(".")[2] for name in modules}))
        layers = {int(found[1]) for name in modules if (found := re.search(r"\.(\d+)\.", name))}
        tried: list[dict[str, Any]] = [{"target_modules": leaves}]
        if self.kind == "LORA" and layers:
            tried.append({"target_modules": leaves, "layers": tuple(sorted(layers))})
        for one in tried:
            spec = self._spec(**shape, **one)
            if {name for name in every if spec.targets(name)} == modules:
                return spec
        return self._spec(**shape, target_modules=tuple(sorted(modules)))

    def _spec(self, **shape: Any) -> AdapterSpec:
        return AdapterSpec(
            method=_KINDS[self.kind].method,
            learning_rate=1.0,
            steps=0,
            batch_size=1,
            seed=0,
            given=self.digest,
            **shape,
        )

    def state(self) -> bytes:
        """Return the numbers as a checkpoint of the adapter of `spec`, before its first step."""
        import torch
        from safetensors.torch import save

        found = {f"weight/{name}": tensor for name, tensor in self._numbers().items()}
        return save({"steps": torch.tensor(0), **found})

    def _numbers(self) -> dict[str, Any]:
        """Return the numbers by the names of parameters of a model with the adapter on it."""
        if self.kind == "PROMPT_TUNING":
            return {"prompt_encoder.default.embedding.weight": self.tensors["prompt_embeddings"]}
        if self.kind != "LORA":
            ends = (("ia3_l", "ia3_l.default"), (".weight", ".default.weight"))
            return {
                next(name.removesuffix(a) + b for a, b in ends if name.endswith(a)): tensor
                for name, tensor in self.tensors.items()
            }
        from torch.nn.functional import pad

        most = max(len(t) for name, t in self.tensors.items() if ".lora_A." in name)
        found: dict[str, Any] = {}
        for module in self.modules:
            first = self.tensors[f"{_PREFIX}{module}.lora_A.weight"]
            second = self.tensors[f"{_PREFIX}{module}.lora_B.weight"]
            more = most - len(first)
            scale = self._scaling(module, len(first)) / LORA_SCALING
            found[f"{_PREFIX}{module}.lora_A.default.weight"] = pad(first, (0, 0, 0, more))
            found[f"{_PREFIX}{module}.lora_B.default.weight"] = pad(scale * second, (0, more))
        return found

    def _scaling(self, module: str, rank: int) -> float:
        """Return the factor of a module's update: alpha over the rank, or over its root."""
        from peft.utils.other import get_pattern_key

        alphas = self.options["alpha_pattern"]
        alpha = alphas.get(get_pattern_key(list(alphas), module), self.options["lora_alpha"])
        return float(alpha) / (math.sqrt(rank) if self.options["use_rslora"] else rank)


def _file_name(parameter: str) -> str:
    """Return PEFT's name in a file of a parameter of an adapter on a model."""
    if parameter.startswith("prompt_encoder."):
        return "prompt_embeddings"
    return parameter.replace(".default", "")


def _configuration(kind: str, options: Mapping[str, Any]) -> Any:
    import peft

    more = {"task_type": "CAUSAL_LM"} if kind == "PROMPT_TUNING" else {}
    return getattr(peft, _KINDS[kind].config)(**options, **more)


def read_peft_folder(folder: Path) -> PeftFolder:
    """Return the adapter in a folder.

    Raises:
        ValueError: if a file is missing, damaged, too large, or asks for more than is understood.
    """
    file = folder / _CONFIG
    if folder.is_dir() and not (folder / _WEIGHTS).exists():
        old = (folder / "adapter_model.bin").exists()
        why = "; adapter_model.bin is a pickle, which is never read" if old else ""
        raise ValueError(f"{folder}: {_WEIGHTS} is missing{why}")
    config = read_file(file, _MOST_CONFIG_BYTES)
    kind, options = _options(file, parsed(config, str(file)))
    weights = read_file(folder / _WEIGHTS)
    digest = hashlib.sha256(len(config).to_bytes(8, "big") + config + weights)
    tensors = _tensors(folder / _WEIGHTS, weights, kind)
    return PeftFolder(folder, digest.hexdigest()[:16], kind, options, tensors)


def _options(file: Path, config: Any) -> tuple[str, dict[str, Any]]:
    """Return the `peft_type` of a configuration, and the options that decide what it does."""
    if not isinstance(config, dict):
        raise ValueError(f"{file}: a JSON object is needed, found a {type(config).__name__}")
    name = str(config.get("peft_type"))
    if name not in _KINDS:
        raise ValueError(f"{file}: peft_type: {', '.join(_KINDS)} are allowed (found {name!r:.80})")
    kind = _KINDS[name]
    plain = vars(_configuration(name, {"num_virtual_tokens": 1} if name[0] == "P" else {}))
    known = {*_OF_ALL, *kind.options, *kind.without_effect}
    for option, value in config.items():
        allowed = plain.get(option)
        if option not in known and value != allowed and value not in (None, False, [], {}):
            raise ValueError(
                f"{file}: {option}: only {allowed!r} is allowed for {name} (found {value!r:.80})"
            )
    start = config.get("init_lora_weights", True)
    # `True == 1`, and no number is a start.
    if not any(start is one or (start == one and isinstance(start, str)) for one in _STARTS):
        raise ValueError(
            f"{file}: init_lora_weights: a start that changes the base model too is not allowed "
            f"(found {start!r:.80}); convert the adapter to plain LoRA when it is saved"
        )
    options = {option: config.get(option, plain.get(option)) for option in kind.options}
    for option, value in options.items():
        rule, fits = _RULES[option]
        if not fits(value):
            raise ValueError(f"{file}: {option}: {rule} is allowed (found {value!r:.80})")
    if name == "PROMPT_TUNING" and config.get("task_type") not in (None, "CAUSAL_LM"):
        raise ValueError(
            f"{file}: task_type: CAUSAL_LM is allowed (found {config['task_type']!r:.80})"
        )
    return name, options


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 20


def _is_number(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, int | float) and math.isfinite(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, str) and re.fullmatch(r"[\w.-]+", one) for one in value
    )


def _by_name(value: Any, fits: Any) -> bool:
    return isinstance(value, dict) and all(
        _NAME.fullmatch(name) and fits(one) for name, one in value.items()
    )


_NAMES = "a list of names of modules"
# What is allowed for each option, in words and as a test.
_RULES: dict[str, tuple[str, Any]] = {
    "r": ("a whole number above 0", _is_whole),
    "num_virtual_tokens": ("a whole number above 0", _is_whole),
    "lora_alpha": ("a number", _is_number),
    "use_rslora": ("true or false", lambda value: isinstance(value, bool)),
    "rank_pattern": ("a whole number for each name", lambda value: _by_name(value, _is_whole)),
    "alpha_pattern": ("a number for each name", lambda value: _by_name(value, _is_number)),
    "target_modules": (
        f"{_NAMES} or a pattern",
        lambda value: bool(value) and (isinstance(value, str) or _are_names(value)),
    ),
    "exclude_modules": (_NAMES, lambda value: value is None or _are_names(value)),
    "layers_pattern": (
        _NAMES,
        lambda value: value is None or _are_names(value) or _are_names([value]),
    ),
    "layers_to_transform": (
        "a number or a list of numbers",
        lambda value: (
            value is None
            or type(value) is int
            or (isinstance(value, list) and all(type(one) is int for one in value))
        ),
    ),
    # They would change the input of a module instead of its output.
    "feedforward_modules": ("an empty list", lambda value: value in (None, [])),
}


def _tensors(file: Path, content: bytes, kind: str) -> dict[str, Any]:
    """Return the tensors of a file in float32."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file}: not a file of safetensors: {error}") from error
    if not found:
        raise ValueError(f"{file}: the file holds no tensor")
    allowed = (torch.float32, torch.float16, torch.bfloat16)
    for name, tensor in found.items():
        if tensor.dtype not in allowed:
            types = ", ".join(str(one).removeprefix("torch.") for one in allowed)
            type_ = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{file}: {name}: numbers in {types} are allowed (found {type_})")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{file}: {name} holds numbers that are not finite")
    if kind == "LORA":
        pairs = {name.replace(".lora_B.", ".lora_A.") for name in found}
        alone = [name for name in sorted(pairs) if name not in found or ".lora_A." not in name]
        alone += [name for name in found if name.replace(".lora_A.", ".lora_B.") not in found]
        if alone:
            raise ValueError(f"{file}: {alone[0]} is no factor lora_A with a lora_B beside it")
    return {name: tensor.float() for name, tensor in found.items()}


@dataclass(frozen=True)
class GivenFiles:
    """The candidates that a sweep gives, with what their files hold.

    Attributes:
        prompts: each prompt with its text, and its place in the sweep.
        adapters: each adapter with its folder read, and its place in the sweep.
    """

    prompts: Sequence[tuple[str, GivenPrompt]] = ()
    adapters: Sequence[tuple[str, GivenAdapter, PeftFolder]] = ()


def read_given(given: Given | None, folder: Path) -> GivenFiles:
    """Return the candidates that a sweep gives; `folder` is where their paths begin.

    Raises:
        ValueError: naming place and file, if one can't be used.
    """
    prompts: list[tuple[str, GivenPrompt]] = []
    adapters: list[tuple[str, GivenAdapter, PeftFolder]] = []
    for place, one in (given.each() if given else {}).items():
        where = f"families.given.{place}"
        try:
            if isinstance(one, GivenAdapter):
                adapters.append((where, one, read_peft_folder(folder / one.folder)))
            else:
                prompts += [(where, prompt) for prompt in _with_texts(one, folder)]
        except ValueError as error:
            option = "folder" if isinstance(one, GivenAdapter) else "lines" if one.lines else "file"
            raise ValueError(f"{where}.{option}: {error}") from error
    return GivenFiles(prompts, adapters)


def _with_texts(prompt: GivenPrompt, folder: Path) -> list[GivenPrompt]:
    """Return the prompts that an entry stands for, each with its text alone."""
    if prompt.text is not None:
        return [prompt]
    if prompt.file is not None:
        texts = ["\n".join(text_lines(folder / prompt.file)).rstrip("\n")]
        if not texts[0]:
            raise ValueError(f"{folder / prompt.file} holds no text")
    else:
        assert prompt.lines is not None
        file = folder / prompt.lines
        texts = [_text_of(value, prompt.field, line) for line, value in json_lines(file)]
        if not texts:
            raise ValueError(f"{file} holds no text")
    alone = {"file": None, "lines": None, "field": None}
    return [prompt.model_copy(update={**alone, "text": text}) for text in texts]


def _text_of(value: Any, entry: str | None, where: str) -> str:
    """Return the text of a line: the line itself, the entry that is named, or the only one."""
    if isinstance(value, dict):
        texts = {name: one for name, one in value.items() if isinstance(one, str)}
        if entry is None and len(texts) != 1:
            names = ", ".join(texts) or "none"
            raise ValueError(
                f"{where}: an object of one text is needed, or `field` to say which (found {names})"
            )
        value = texts.get(entry) if entry is not None else next(iter(texts.values()))
        if value is None:
            raise ValueError(f"{where}: there is no text {entry!r}")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: a text is needed, or an object of one (found {value!r:.80})")
    return value.rstrip("\n")


def given_on(
    files: GivenFiles,
    task: Task,
    model: str,
    parameters: Iterable[str] | None,
    *,
    template: bool,
) -> list[tuple[Candidate, str]] | None:
    """Return the given candidates of a base model, each with where it comes from.

    They are the prompts, then each adapter alone and before the question of each prompt.

    Args:
        files: what the sweep gives.
        task: the task to solve.
        model: label of the base model.
        parameters: names of its parameters, None if they are unknown.
        template: it has a chat template.

    Returns:
        The candidates, None if adapters are given and the parameters are unknown.
    """
    if files.adapters and parameters is None:
        return None
    found = []
    for place, prompt in files.prompts:
        asked = prompt.on(template=template).after(prompt.text or "", task, model)
        found.append((asked, place))
    prompts = [candidate for candidate, _ in found]
    for place, one, adapter in files.adapters:
        bare = one.on(template=template).after("", task, model)
        with_it = {"adapter": adapter.spec(parameters or ())}
        source = f"{place} ({adapter.folder})"
        found += [(each.model_copy(update=with_it), source) for each in (bare, *prompts)]
    return found


def given_state(given: Given | None, folder: Path, digest: str) -> bytes:
    """Return the numbers of a given adapter, as a checkpoint before its first step.

    Args:
        given: the candidates that the sweep gives.
        folder: where its paths begin.
        digest: that of the adapter's folder when the search began.

    Raises:
        ValueError: if no folder holds it any more.
    """
    found = [read_peft_folder(folder / one.folder) for one in (given.adapters if given else ())]
    for one in found:
        if one.digest == digest:
            return one.state()
    places = ", ".join(str(one.folder) for one in found)
    raise ValueError(f"the given adapter {digest} has changed since the search began: {places}")
