"""What `run` says of a sweep file, its overrides, its data and its models."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from tests.messages.scene import Case, Scene, no_store
from tests.support.peft_folders import change_config, save_adapter
from tests.support.tasks.harness_files import CHOOSE, write_task

DRY = "run {sweep} --dry-run"


def bad(message: str, **changes: Any) -> Case:
    """Return a case of a sweep file with changes."""
    return Case(DRY, message, sweep=changes)


def override(text: str, message: str) -> Case:
    """Return a case of a wrong override."""
    return Case(f"{DRY} '{text}'", message, sweep={})


def text(content: str | bytes, message: str) -> Case:
    """Return a case of a file that is no sweep at all."""
    return Case("run {here}/s.yaml", message, given=lambda scene: scene.file("s.yaml", content))


def lora(**changes: Any) -> dict[str, Any]:
    """Return families with a LoRA that is changed."""
    return {"lora": {"candidates": 2, "rank": [1], "target_modules": [["q_proj"]], **changes}}


def given(**prompt: Any) -> dict[str, Any]:
    """Return families with a given prompt."""
    return {"prompt": {"candidates": 1}, "given": {"prompts": [prompt]}}


def theirs(*adapters: Any) -> dict[str, Any]:
    """Return families with given adapters."""
    return {"prompt": {"candidates": 1}, "given": {"adapters": list(adapters)}}


def an_adapter(**changes: Any) -> Any:
    """Return what saves an adapter of PEFT's, whose configuration is then changed."""

    def given(scene: Scene) -> None:
        folder = save_adapter(scene.models["llama"], scene.here / "theirs")
        change_config(folder, **changes)

    return given


def model(**changes: Any) -> list[dict[str, Any]]:
    """Return base models that name a folder beside the sweep file."""
    return [{"regime": "r", "path": "model", **changes}]


def a_model_without(*patterns: str) -> Any:
    """Return what copies a base model and takes files away."""

    def given(scene: Scene) -> None:
        shutil.copytree(scene.models["llama"], scene.here / "model")
        for pattern in patterns:
            for path in (scene.here / "model").glob(pattern):
                path.unlink()

    return given


def there(variable: str, value: str) -> Callable[[Scene], None]:
    """Return what sets an environment variable where all packages are installed."""

    def given(scene: Scene) -> None:
        scene.monkeypatch.setattr("kilobit.cluster.sweep.sweep.find_spec", lambda _: True)
        scene.monkeypatch.setenv(variable, value)

    return given


def a_model_without_bitsandbytes(scene: Scene) -> None:
    """Let there be a base model, and no library that quantises it."""
    a_model_without()(scene)
    scene.monkeypatch.setattr("kilobit.evaluators.model.machine.find_spec", lambda _: None)


def a_model_with_a_plain_template(scene: Scene) -> None:
    """Let a base model have a chat template that knows no thinking."""
    a_model_without()(scene)
    scene.file("model/chat_template.jinja", "{{ messages[0].content }}")


def a_model_with_a_template(text: str) -> Callable[[Scene], None]:
    """Return what lets a base model have a chat template."""

    def given(scene: Scene) -> None:
        a_model_without()(scene)
        scene.file("model/chat_template.jinja", text)

    return given


def a_choice(template: str | None = None) -> Callable[[Scene], None]:
    """Return what writes a multiple-choice task, and a base model with a chat template."""

    def given(scene: Scene) -> None:
        write_task(scene.here / "tasks", "choice", CHOOSE)
        if template is not None:
            a_model_with_a_template(template)(scene)

    return given


def an_odd_model(scene: Scene) -> None:
    """Let the folder of a base model be of an architecture that nobody knows."""
    a_model_without()(scene)
    scene.file("model/config.json", '{"model_type": "no-such-thing"}')


def a_state_space_model(scene: Scene) -> None:
    """Let the folder of a base model be of an architecture without attention."""
    a_model_without()(scene)
    about = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 400}
    scene.file("model/config.json", json.dumps(about))


def data(*lines: str) -> Any:
    """Return what writes a data file."""
    return lambda scene: scene.file("d.jsonl", "".join(line + "\n" for line in lines))


OWN_TASK = {"kind": "jsonl", "name": "mine", "data": "d.jsonl", "metric": "exact_match"}
FILES = {"train": "d.jsonl", "search": "d.jsonl", "sealed": "d.jsonl"}
LINE = '{"input": "a", "target": "b"}'

YAML = [
    Case("run {here}/none.yaml", "kilobit: {here}/none.yaml: No such file or directory"),
    Case("run {here}", "kilobit: {here}: not a regular file"),
    text("name: x\nseed: [1\n", "{here}/s.yaml, line 3: not valid YAML: "),
    text(
        'name: x\nseed: "\u2028"\n', "s.yaml, line 2: YAML would end a line at the character U+2028"
    ),
    text("name: !!int x\n", "s.yaml, line 1: YAML tags (tag:yaml.org,2002:int) are not allowed"),
    text(f"name: {'[' * 60}", "s.yaml, line 1: nested more than 50 levels deep"),
    text("a: 1\n" * 11_000, "line 10000: more than 20000 keys and values"),
    text('name: "\\ud800"\n', "s.yaml, line 1: half of a surrogate pair is not valid text"),
    text('name: "\\UFFFFFFFF"\n', "{here}/s.yaml: not valid YAML: "),
    text(b"#" * 2_000_000, "s.yaml: larger than the allowed 1048576 bytes"),
    Case(
        "run {here}/s.yaml",
        "s.yaml: not a regular file",
        given=lambda scene: os.mkfifo(scene.here / "s.yaml"),
    ),
    text("- 1\n", "{here}/s.yaml: a YAML mapping is needed, found list"),
    text("seed: &a 1\nname: *a\n", "s.yaml, line 2: YAML aliases (*a) are not allowed"),
    text("seed: 1\n1: 3\n", "s.yaml, line 2: the key 1 is not text: write it in quotes"),
    text("seed: 1\nseed: 2\n", "s.yaml, line 2: the key 'seed' is given twice"),
    text(f"seed: {'9' * 200}\n", "line 1: not valid YAML: a whole number has at most 100 digits"),
    text(b"name: \xe4\n", "{here}/s.yaml: "),
]
OVERRIDES = [
    override("eta", "'eta': an override is written key=value, e.g. budget.seconds=60"),
    override("name.x=1", "'name.x=1': 'name' is a value"),
    override(
        "base_models.0.path=x",
        "'base_models.0.path=x': 'base_models' is a list: override it as a whole",
    ),
    override("seed=[", "'seed=[': the value is not valid YAML"),
    override("seed=!!int x", "'seed=!!int x': YAML tags (tag:yaml.org,2002:int) are not allowed"),
    override("rungs={1: 3}", "'rungs={1: 3}': the key 1 is not text: write it in quotes"),
    override("budget={seconds: 5, seconds: 6}", "seconds: 6}': the key 'seconds' is given twice"),
    override("a." * 60 + "a=1", "nested more than 50 levels deep"),
    override("rungs.eta=x", "command line: rungs.eta: Input should be a valid integer (found 'x')"),
]
FIELDS = [
    bad("sweep.yaml, line 28: unknown key 'budgte'. Did you mean 'budget'?", budgte={}),
    bad("unknown key 'families.promt'. Did you mean 'prompt'?", families={"promt": {}}),
    bad("seed: Input should be a valid integer (found 'three')", seed="three"),
    bad("targets.0: Input should be less than or equal to 1 (found 1.5)", targets=[1.5]),
    bad("name: String should match pattern", name="a/b"),
    bad("no candidates: give at least one family `candidates` above 0", families={}),
    bad("budget.candidates: Input should be greater than or equal to 1", budget={"candidates": 0}),
    bad(
        "task instructions: train_examples 50000 are more than it can generate; ",
        task={"kind": "miniature", "name": "instructions", "train_examples": 50_000},
    ),
    bad("task.kind must be one of 'miniature', 'jsonl', 'dataset'", task={"kind": "gsm9k"}),
    bad("'task.kind' is missing; it is one of 'miniature', 'jsonl'", task={"name": "numbers"}),
    bad("'task.name' is missing", task={"kind": "miniature"}),
    bad("length: Input should be 'program', 'payload' or 'net' (found 'bits')", length="bits"),
    bad(
        "line 1: length: net counts from the bare question, which is the first candidate of the",
        length="net",
        families=lora(),
    ),
    bad(
        "line 1: proposer: evolution never ends by itself: give budget.",
        proposer={"kind": "evolution"},
    ),
    bad("line 1: two base models are called 'r': give each a `name`", base_models=model() * 2),
    bad("base_models.0: give either `path`", base_models=[{"regime": "r"}]),
    bad(
        "rungs.examples 127 has no divisor between 32 and workers.batch_size",
        rungs={"examples": 127},
    ),
    bad("min_per_model 2 is more than per_model 1", workers={"min_per_model": 2}),
    bad("trackers.0.kind must be one of 'tensorboard', 'mlflow', 'w", trackers=[{"kind": "x"}]),
    bad("unknown key 'trackers.0.key'", trackers=[{"kind": "mlflow", "key": "x"}]),
]
TASKS = [
    bad("{here}/d.jsonl: No such file or directory", task=OWN_TASK),
    Case(DRY, "{here}/d.jsonl: the file holds no examples", sweep={"task": OWN_TASK}, given=data()),
    Case(DRY, "{here}/d.jsonl, line 2: not JSON", sweep={"task": OWN_TASK}, given=data(LINE, "{")),
    Case(
        DRY,
        "is in both the train and the search split",
        sweep={"task": {**OWN_TASK, "data": None, "files": FILES}},
        given=data(LINE),
    ),
    bad(
        "rungs: the last rung scores 900 examples (examples 100 x eta 3^2), but the search split "
        "of numbers has 512",
        rungs={"examples": 100, "eta": 3, "count": 3},
    ),
    bad(
        "families.lora.max_new_tokens: 13 is more than the task numbers allows (12)",
        families=lora(max_new_tokens=[13]),
    ),
    bad(
        "families.given.prompts.0.max_new_tokens: 13 is more than the task numbers allows (12)",
        families=given(text="a", max_new_tokens=13),
    ),
    bad(
        "families.given.prompts.0: give one of `text`, `file` and `lines`",
        families=given(text="a", file="b"),
    ),
    bad(
        "families.given.prompts.0.file: {here}/none.txt: No such file",
        families=given(file="none.txt"),
    ),
    Case(
        DRY,
        "families.given.prompts.0.file: {here}/empty.txt holds no text",
        sweep={"families": given(file="empty.txt")},
        given=lambda scene: scene.file("empty.txt", "\n"),
    ),
    Case(
        DRY,
        "families.given.prompts.0.lines: {here}/p.jsonl, line 2: a text is needed, or an object of",
        sweep={"families": given(lines="p.jsonl")},
        given=lambda scene: scene.file("p.jsonl", '"Add."\n3\n'),
    ),
    bad(
        "families.given.adapters.0.folder: {here}/none/adapter_config.json: No such file",
        families=theirs("none"),
    ),
    Case(
        DRY,
        "families.given.adapters.0.folder: {here}/theirs/adapter_config.json: use_dora: only False",
        sweep={"families": theirs("theirs")},
        given=an_adapter(use_dora=True),
    ),
    Case(
        DRY,
        "families.given.adapters.0: {here}/theirs/adapter_model.safetensors: base_model.model.model"
        ".layers.0.self_attn.k_proj.lora_A.weight is missing, which adapter_config.json needs on",
        sweep={"families": theirs("theirs")},
        given=an_adapter(target_modules=["k_proj", "q_proj", "v_proj"]),
    ),
    bad(
        "families.lora.demonstrations: 600 are more than the train split has (512)",
        families=lora(demonstrations=[600]),
    ),
    bad(
        "families.data.size: 600 are more than the train split has (512)",
        families={"data": {"candidates": 1, "size": [600], "target_modules": [["q_proj"]]}},
    ),
]
CHOICE = {"kind": "harness", "name": "choice", "include_path": "tasks"}
CHOICES = [
    Case(
        DRY,
        "families.lora.postprocess: programs of the task choice choose one of the answers that an",
        sweep={"task": CHOICE, "families": lora(postprocess=[["lower"]])},
        given=a_choice(),
    ),
    Case(
        DRY,
        "families.given.prompts.0.postprocess: programs of the task choice choose one of",
        sweep={"task": CHOICE, "families": given(text="a", postprocess=["lower"])},
        given=a_choice(),
    ),
    Case(
        DRY,
        "base_models: r thinks in its chat template, and programs of the task choice choose",
        sweep={"task": CHOICE, "base_models": model()},
        given=a_choice("{% for one in messages %}{{ one.content }}{% endfor %}{{ '<think>\\n' }}"),
    ),
]
MODELS = [
    bad("base_models.0.path: there is no folder {here}/model", base_models=model()),
    Case(
        DRY,
        "base_models.0.path: {here}/model is a file, not a model's folder; of a GGUF file, make",
        sweep={"base_models": model()},
        given=lambda scene: scene.file("model", "GGUF"),
    ),
    Case(
        DRY,
        "base_models.0.path: {here}/model holds no model: config.json is missing",
        sweep={"base_models": model()},
        given=a_model_without("config.json"),
    ),
    Case(
        DRY,
        "base_models.0.path: {here}/model holds no weights (*.safetensors)",
        sweep={"base_models": model()},
        given=a_model_without("*.safetensors"),
    ),
    Case(
        DRY,
        "base_models.0: no usable tokenizer in {here}/model: Couldn't instantiate the backend to",
        sweep={"base_models": model()},
        given=a_model_without("tokenizer*"),
    ),
    Case(
        DRY,
        "base_models.0: {here}/model can't be loaded: ",
        sweep={"base_models": model()},
        given=an_odd_model,
    ),
    Case(
        DRY,
        "base_models.0.device: cuda:7 is asked for, this machine has no GPU",
        sweep={"base_models": model(device="cuda:7")},
        given=lambda scene: (
            a_model_without()(scene),
            scene.monkeypatch.setattr("torch.cuda.is_available", lambda: False),
        ),
    ),
    Case(
        DRY,
        "families.soft_prompt: {here}/model can't have this adapter: Please specify",
        sweep={"base_models": model(), "families": {"soft_prompt": {"candidates": 1}}},
        given=a_state_space_model,
    ),
    bad("families.lora.chat: the tokenizer of {model} has no chat", families=lora(chat=[True])),
    bad(
        "families.given.prompts.0.chat: the tokenizer of {model} has no chat",
        families=given(text="a", chat=True),
    ),
    Case(
        DRY,
        "base_models.0.enable_thinking: no family puts a question into the chat template: the "
        "tokenizer has none",
        sweep={"base_models": model(enable_thinking=False)},
        given=a_model_without(),
    ),
    Case(
        DRY,
        "base_models.0.enable_thinking: no family puts a question into the chat template: all have",
        sweep={"base_models": model(enable_thinking=False), "families": lora(chat=[False])},
        given=a_model_with_a_plain_template,
    ),
    Case(
        DRY,
        "base_models.0: the chat template can't be used (not for you): mend it, or say `chat: [fa",
        sweep={"base_models": model(), "families": lora()},
        given=a_model_with_a_template("{{ raise_exception('not for you') }}"),
    ),
    Case(
        DRY,
        "families.lora.turns: the chat template of {here}/model takes no earlier turns (it does "
        "not show each turn once, in their order): set it to false, or `chat: [false]`",
        sweep={"base_models": model(), "families": lora(demonstrations=[0, 1])},
        given=a_model_with_a_plain_template,
    ),
    Case(
        DRY,
        "base_models.0.today: the chat template reads the clock: give the date as it is",
        sweep={"base_models": model(), "families": lora(chat=[True])},
        given=a_model_with_a_template("{{ strftime_now('%d %B %Y') }} {{ messages[0].content }}"),
    ),
    Case(
        DRY,
        "base_models.0.today: the chat template reads no clock",
        sweep={"base_models": model(today="2026-01-31"), "families": lora(chat=[True])},
        given=a_model_with_a_plain_template,
    ),
    Case(
        DRY,
        "base_models.0.path: the chat template says something else each time",
        sweep={"base_models": model(), "families": lora(chat=[True])},
        given=a_model_with_a_template("{{ [1, 2, 3, 4] | random }} {{ messages[0].content }}"),
    ),
    Case(
        DRY,
        "base_models.0: no usable tokenizer in {here}/model: generation config: eos_token_id [0,",
        sweep={"base_models": model()},
        given=lambda scene: (
            a_model_without()(scene),
            scene.file("model/generation_config.json", '{"eos_token_id": [0, "</s>"]}'),
        ),
    ),
    Case(
        DRY,
        "base_models.0: {here}/model can't be loaded: {here}/model/generation_config.json: ",
        sweep={"base_models": model()},
        given=lambda scene: (
            a_model_without()(scene),
            scene.file("model/generation_config.json", "{"),
        ),
    ),
    Case(
        DRY,
        "base_models.0.enable_thinking: the chat template has no switch for thinking",
        sweep={
            "base_models": model(enable_thinking=False),
            "families": lora(chat=[True]),
        },
        given=a_model_with_a_plain_template,
    ),
    bad("there is no layer 2; {model} has layers 0 to 1", families=lora(layers=[[2]])),
    bad(
        "families.lora.rank: 64 is too large for q_proj of {model}, whose smaller side is 32",
        families=lora(rank=[64]),
    ),
    bad(
        "families.lora.target_modules: {model} has no module 'c_attn'; it has ",
        families=lora(target_modules=[["c_attn"]]),
    ),
    bad(
        "families.weights.target_modules: no weight of {model} is called 'nosuch'",
        families={"weights": {"candidates": 2, "target_modules": [["nosuch"]]}},
    ),
    bad(
        "families.trainable_tokens.tokens: there is no token 400; {model} has 400",
        families={"trainable_tokens": {"candidates": 2, "tokens": [[1, 400]]}},
    ),
]
WORKERS = [
    Case("run {sweep} workers.per_model=5000", "workers: 5000 workers are too many for ", sweep={}),
    Case("run {sweep} workers.cpus=500", "workers.cpus: 1 workers of llama with 500 ", sweep={}),
    Case("run {sweep} workers.gpus=64", "workers.gpus: 1 workers of llama with 64 G", sweep={}),
    Case(
        "run {sweep}",
        "workers.resources: llama needs disk, which nodes of a cluster have that was started ",
        sweep={"workers": {"resources": {"disk": 1.0}}},
    ),
    bad(
        "workers.shards: ",
        workers={"shards": {"world_size": 2, "memory_gib": 0.0001}},
    ),
    bad(
        "families.weights: candidates would run alone on {model}, which a model that is split ",
        families={"weights": {"candidates": 2, "target_modules": [["norm"]]}},
        workers={"shards": {"world_size": 2}},
    ),
    Case(
        DRY,
        "the environment variable HF_ENDPOINT has to be an address such as https://HOST, or not",
        sweep={"base_models": [{"regime": "raw", "hub": "org/model", "revision": "v1"}]},
        given=lambda scene: scene.monkeypatch.setenv("HF_ENDPOINT", "hub.example.org"),
    ),
    Case(
        DRY,
        "trackers.0: the environment variable WANDB_BASE_URL has to be an address such as",
        sweep={"trackers": [{"kind": "wandb", "project": "p"}]},
        given=there("WANDB_BASE_URL", "wandb.example.org:8080"),
    ),
    Case(
        DRY,
        "trackers.0: the tracking URI of MLflow is a host and a port without http:// or https",
        sweep={"trackers": [{"kind": "mlflow"}]},
        given=there("MLFLOW_TRACKING_URI", "mlflow.example.org:5000"),
    ),
    Case(
        DRY,
        "workers.shards: quantization nf4 of r needs a model that is whole on one rank",
        sweep={
            "base_models": model(quantization="nf4"),
            "workers": {"shards": {"world_size": 2}},
        },
        given=a_model_without(),
    ),
    Case(
        DRY,
        "families.seeds.target_modules: 'down_proj' names model.layers.0.mlp.down_proj.weight, "
        "which r keeps in int8, so noise can't be added to it",
        sweep={
            "base_models": model(quantization="int8"),
            "families": {"seeds": {"candidates": 2, "target_modules": [["down_proj"]]}},
        },
        given=a_model_without(),
    ),
    Case(
        DRY,
        "families.seeds: seeds: 4 can't be chosen from 2: raise `draws`",
        sweep={"families": {"seeds": {"candidates": 2, "seeds": [4], "draws": 2}}},
    ),
    Case(
        DRY,
        "families.seeds: seeds: `draws` lists the seeds, so there is nothing to choose",
        sweep={"families": {"seeds": {"candidates": 2, "seeds": [1], "draws": [[3]]}}},
    ),
    Case(
        DRY,
        "families.weights.target_modules: 'mlp' names model.layers.0.mlp.down_proj.weight, which "
        "r keeps in int8, so it can't be trained",
        sweep={
            "base_models": model(quantization="int8"),
            "families": {"weights": {"candidates": 2, "target_modules": [["norm"], ["mlp"]]}},
        },
        given=a_model_without(),
    ),
    Case(
        DRY,
        "base_models.0.quantization: quantization nf4 needs bitsandbytes: pip install",
        sweep={"base_models": model(quantization="nf4")},
        given=a_model_without_bitsandbytes,
    ),
    Case(
        DRY,
        "trackers.0: kind 'wandb' needs wandb, which is not installed: pip install",
        sweep={"trackers": [{"kind": "wandb", "project": "p"}]},
        given=lambda scene: scene.monkeypatch.setattr(
            "kilobit.cluster.sweep.sweep.find_spec", lambda _: None
        ),
    ),
]


def _forbidden(**_: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


CACHES = [
    Case(
        DRY,
        "cache: can't be written: {here}/shared: Not a directory",
        sweep={"cache": "shared/cache"},
        given=lambda scene: scene.file("shared", "a file"),
    ),
    Case(
        DRY,
        "cache: can't be written: {here}: Permission denied",
        sweep={"cache": "cache"},
        # Root may write everywhere.
        given=lambda scene: scene.monkeypatch.setattr("tempfile.TemporaryFile", _forbidden),
    ),
    Case(
        DRY,
        "cache: s3://bucket: no answer at http://127.0.0.1:9",
        sweep={"cache": "s3://bucket/cache"},
        given=no_store,
    ),
    bad("ftp:// is not an object store that processes can share", cache="ftp://host/folder"),
]
CASES = [*YAML, *OVERRIDES, *FIELDS, *TASKS, *CHOICES, *MODELS, *WORKERS, *CACHES]
