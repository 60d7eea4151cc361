"""Hostile base models: configs, weights, tokenizers, templates, files that are none; GGUF files."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.case import MODEL, Case, Maker, Place, cases

DEEP = "[" * 100_000
CODE = "import pathlib\npathlib.Path('executed').touch()\n"


def config(name: str = "config.json", **changes: Any) -> Maker:
    """Return what copies a model and changes a file of JSON."""

    def make(place: Place) -> list[str]:
        words = place.model()
        path = place.here / "model" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return words

    return make


def replaced(name: str, content: str | bytes, *, without: str | None = None) -> Maker:
    """Return what copies a model and replaces a file, or adds one."""

    def make(place: Place) -> list[str]:
        words = place.model()
        place.file(f"model/{name}", content)
        if without is not None:
            (place.here / "model" / without).unlink()
        return words

    return make


def special(name: str, create: Callable[[Path], object]) -> Maker:
    """Return what copies a model and puts something else in place of a file."""

    def make(place: Place) -> list[str]:
        words = place.model()
        path = place.here / "model" / name
        path.unlink(missing_ok=True)
        create(path)
        return words

    return make


def link(target: str) -> Callable[[Path], object]:
    """Return what makes a link."""
    return lambda path: path.symlink_to(target)


def header(content: Any, size: int | None = None, after: bytes = b"\0" * 64) -> bytes:
    """Return a safetensors file with a header that may lie about its size."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + after


def weights(content: bytes) -> Maker:
    """Return what loads a model with these weights, as `verify` of a program does."""

    def make(place: Place) -> list[str]:
        place.model()
        place.file("model/model.safetensors", content)
        return loaded(place)

    return make


def index(content: Any) -> Maker:
    """Return what loads a model whose weights an index names."""

    def make(place: Place) -> list[str]:
        place.model()
        (place.here / "model" / "model.safetensors").rename(place.here / "model" / "a.safetensors")
        raw = content if isinstance(content, str) else json.dumps(content)
        place.file("model/model.safetensors.index.json", raw)
        return loaded(place)

    return make


def loaded(place: Place) -> list[str]:
    """Write a program of which the model in `model` is asked for, and return the words."""
    from kilobit.evaluators.proof.program_files import write_folder
    from kilobit.search.programs.program import Program
    from kilobit.search.programs.recipe import Recipe

    recipe = Recipe(question="{input}", batch_size=8, max_new_tokens=8)
    (place.here / "p").mkdir()
    write_folder(place.here / "p", Program(recipe, b"pass\n", b""), {"base_digest": "other"})
    place.file("p/examples.jsonl", '{"input": "a", "output": "b"}\n')
    return ["verify", "p", "--model", "model"]


def tokenizer(**changes: Any) -> Maker:
    """Return what changes the tokenizer."""
    return config("tokenizer.json", **changes)


def template(text: str) -> Maker:
    """Return what gives a model a chat template."""
    return replaced("chat_template.jinja", text)


def whole(**changes: Any) -> dict[str, Any]:
    """Return an entry of a safetensors header with changes."""
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes


CONFIGS = {
    "a hidden size of 10^9": config(hidden_size=10**9),
    "a hidden size of 10^30": config(hidden_size=10**30),
    "a hidden size below 0": config(hidden_size=-8),
    "a hidden size of text": config(hidden_size="64; touch executed"),
    "no vocabulary": config(vocab_size=0),
    "10^9 layers": config(num_hidden_layers=10**9),
    "100,000 layers": config(num_hidden_layers=100_000),
    "no heads": config(num_attention_heads=0),
    "more heads than numbers": config(num_attention_heads=10**6),
    "no activation": config(hidden_act="__import__('os').system('touch executed')"),
    "a list": replaced("config.json", "[]"),
    "a number": replaced("config.json", "1"),
    "null": replaced("config.json", "null"),
    "deep JSON": replaced("config.json", DEEP),
    "nothing": replaced("config.json", ""),
    "NUL": replaced("config.json", b"\0" * 1000),
    "UTF-16": replaced("config.json", (MODEL / "config.json").read_text().encode("utf-16")),
    "a number of 5,000 digits": replaced(
        "config.json", '{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}"
    ),
    "a type that is none": config(model_type="../../x"),
    "a type of another type": config(model_type=["llama"]),
    "a type with an escape sequence": config(model_type="\x1b[2J\u202e"),
    "a model that is no language model": config(model_type="vit"),
    "code of its own": config(
        model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"}
    ),
    "code of its own from a hub": config(
        model_type="evil", auto_map={"AutoConfig": "someone/evil--evil.Config"}
    ),
    "a quantisation": config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "a quantisation of another type": config(quantization_config=[1]),
    "a rope of 10^300": config(rope_parameters={"rope_type": "yarn", "factor": "x"}),
    "a rope that is none": config(rope_scaling={"type": "../x", "factor": -1}),
    "a type of numbers that is none": config(dtype="touch executed", torch_dtype="evil"),
    "an end token of text": config(eos_token_id="x"),
    "generation by a file elsewhere": replaced(
        "generation_config.json", '{"custom_generate": "../x", "eos_token_id": {}}'
    ),
    "deep generation": replaced("generation_config.json", DEEP),
    "generation of a list": replaced("generation_config.json", "[]"),
    "an adapter that names another model": replaced(
        "adapter_config.json", '{"base_model_name_or_path": "/etc", "peft_type": "LORA"}'
    ),
    "a pipe": special("config.json", os.mkfifo),
    "/dev/zero": special("config.json", link("/dev/zero")),
    "/dev/random": special("config.json", link("/dev/random")),
    "a link to itself": special("config.json", link("config.json")),
    "a folder": special("config.json", Path.mkdir),
}
WEIGHTS = {
    "a header of 2^63 bytes": weights(header(b"{}", 1 << 63)),
    "a header of 99 MB that is not there": weights(header(b"{}", 99_000_000)),
    "a header that ends in the middle": weights(header({"a": whole()})[:20]),
    "a header of a list": weights(header([])),
    "a deep header": weights(header(DEEP.encode())),
    "a header of NUL": weights(header(b"\0" * 64)),
    "offsets outside": weights(header({"a": whole(data_offsets=[0, 1 << 60])})),
    "offsets that turn back": weights(header({"a": whole(data_offsets=[16, 0])})),
    "offsets that overlap": weights(header({"a": whole(), "b": whole()}, after=b"\0" * 16)),
    "a shape that overflows": weights(header({"a": whole(shape=[1 << 62, 1 << 62])})),
    "a shape below 0": weights(header({"a": whole(shape=[-4])})),
    "a type that is none": weights(header({"a": whole(dtype="PICKLE")})),
    "metadata of another type": weights(header({"__metadata__": {"format": 1}, "a": whole()})),
    "a format that is none": weights(
        header({"__metadata__": {"format": "evil"}, "a": whole()}, after=b"\0" * 16)
    ),
    "no weights": weights(header({}, after=b"")),
    "a pickle": weights(b"\x80\x02cos\nsystem\nU\x0etouch executedq\x00\x85q\x01R."),
    "weights of another shape": weights(
        header({"model.norm.weight": whole(), "__metadata__": {"format": "pt"}}, after=b"\0" * 16)
    ),
    "a name with an escape sequence": weights(
        header({"\x1b[2J": whole(), "__metadata__": {"format": "pt"}}, after=b"\0" * 16)
    ),
    "nothing": weights(b""),
    "a megabyte of zeros": weights(bytes(1 << 20)),
    "an index that names a pickle": index({"weight_map": {"a": "pytorch_model.bin"}}),
    "an index that names ../": index({"weight_map": {"a": "../../a.safetensors"}}),
    "an index that names /dev/zero": index({"weight_map": {"a": "/dev/zero"}}),
    "an index that names numbers": index({"weight_map": {"a": 1, "b": None}}),
    "an index that names lists": index({"weight_map": {"a": ["a.safetensors"]}}),
    "an index that names NUL": index({"weight_map": {"a": "a\0.safetensors"}}),
    "an index that names a folder": index({"weight_map": {"a": "."}}),
    "an index that names a long name": index({"weight_map": {"a": "x" * 5000}}),
    "an index of a list": index([]),
    "an index whose map is a list": index({"weight_map": ["a.safetensors"]}),
    "an index whose map is empty": index({"weight_map": {}}),
    "an index without a map": index({}),
    "an index that is deep": index(DEEP),
    "an index that is text": index("half"),
}


def without_weights(create: Callable[[Path], object], name: str = "model.safetensors") -> Maker:
    """Return what loads a model whose weights are something else."""

    def make(place: Place) -> list[str]:
        place.model()
        (place.here / "model" / "model.safetensors").unlink()
        create(place.here / "model" / name)
        return loaded(place)

    return make


WEIGHTS |= {
    "a pipe": without_weights(os.mkfifo),
    "/dev/zero": without_weights(link("/dev/zero")),
    "a folder": without_weights(Path.mkdir),
    "a link to itself": without_weights(link("model.safetensors")),
    "an index that is a pipe": without_weights(os.mkfifo, "model.safetensors.index.json"),
    "only a pickle": without_weights(
        lambda path: path.write_bytes(b"\x80\x02cos\nsystem\nU\x0etouch executed\x85R."),
        "pytorch_model.bin",
    ),
}
HEAVY = {"type": "Split", "behavior": "Isolated", "invert": False}
TOKENIZERS = {
    "deep JSON": replaced("tokenizer.json", DEEP),
    "nothing": replaced("tokenizer.json", ""),
    "a list": replaced("tokenizer.json", "[]"),
    "no model": tokenizer(model=None),
    "a model that is none": tokenizer(model={"type": "Evil"}),
    "ids of 2^32": tokenizer(model={"type": "BPE", "vocab": {"a": (1 << 32) - 1}, "merges": []}),
    "ids below 0": tokenizer(model={"type": "BPE", "vocab": {"a": -1}, "merges": []}),
    "merges of what is not there": tokenizer(
        model={"type": "BPE", "vocab": {"a": 0}, "merges": [["x", "y"]]}
    ),
    "a pattern that is none": tokenizer(pre_tokenizer=HEAVY | {"pattern": {"Regex": "((("}}),
    "a normalizer that is none": tokenizer(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "a class of a hub": config(
        "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.T", None]},
        tokenizer_class="Evil",
    ),
    "settings of a list": replaced("tokenizer_config.json", "[]"),
    "deep settings": replaced("tokenizer_config.json", DEEP),
    "an end token of another type": config("tokenizer_config.json", eos_token=[1, {"x": []}]),
    "a length of text": config("tokenizer_config.json", model_max_length="x"),
    "special tokens of a pipe": special("special_tokens_map.json", os.mkfifo),
    "a pipe": special("tokenizer.json", os.mkfifo),
    "/dev/zero": special("tokenizer.json", link("/dev/zero")),
    "a folder": special("tokenizer.json", Path.mkdir),
    "none": special("tokenizer.json", lambda _: None),
}  # fmt: skip
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
STAYS = {
    "an empty vocabulary": tokenizer(model={"type": "BPE", "vocab": {}, "merges": []}),
    "a heavy pattern": tokenizer(
        pre_tokenizer=HEAVY | {"pattern": {"Regex": "(?:(?:[a-z ]+)+)+(?=0)"}}
    ),
    "a vocabulary of 10^12": config(vocab_size=10**12),
    "an end token that is none": config(eos_token_id=10**12),
    "a class that is code": config("tokenizer_config.json", tokenizer_class="os.system"),
    "an end token that is not there": config("tokenizer_config.json", eos_token="<nowhere>"),
    "an added token of id 10^9": tokenizer(
        added_tokens=[
            {
                "id": 10**9,
                "content": "<x>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ]
    ),
}
TEMPLATES = {
    "a loop in a loop": template(LOOP),
    "a loop over 10^12": template("{% for a in range(10**12) %}{% endfor %}"),
    "a string of 10^10 letters": template("{{ 'x' * 10**10 }}"),
    "a string that doubles": template(
        "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}{{ ns.x }}"
    ),
    "a power": template("{{ 9**9**9 }}"),
    "a join of 10^9": template("{{ range(10**9)|join }}"),
    "a width of 10^10": template("{{ '%9999999999d' % 1 }}"),
    "a filter of 10^10": template("{{ 'x'|center(10**10) }}"),
    "an attribute of an object": template(
        "{{ messages.__class__.__mro__[1].__subclasses__()|length }}"
    ),
    "the globals of a function": template(
        "{{ raise_exception.__globals__['os'].system('touch executed') }}"
    ),
    "the globals of a macro": template(
        "{% macro x() %}{% endmacro %}{{ x.__init__.__globals__.os.system('touch executed') }}"
    ),
    "a cycler": template("{{ cycler.__init__.__globals__.os.popen('touch executed').read() }}"),
    "an attribute by a filter": template("{{ ''|attr('__class__')|attr('mro')() }}"),
    "a format string": template("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}"),
    "an include": template("{% include '/etc/passwd' %}"),
    "an import": template("{% import 'os' as os %}{{ os.system('touch executed') }}"),
    "an exception of its own": template("{{ raise_exception('\x1b[2J\u202eowned') }}"),
    "an exception of nothing": template("{{ raise_exception('') }}"),
    "brackets": template("{{ " + "(" * 5000),
    "brackets that are closed": template("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}"),
    "blocks of blocks": template("{% if true %}" * 3000),
    "macro of itself": template("{% macro x() %}{{ x() }}{% endmacro %}{{ x() }}"),
    "a division by nothing": template("{{ 1 // 0 }}"),
    "no template": template("{% what %}"),
    "a template that is none": template(""),
    "NUL": template("\0"),
    "half of a surrogate pair": template("{{ '\\ud800' }}"),
    "a pipe": special("chat_template.jinja", os.mkfifo),
    "/dev/zero": special("chat_template.jinja", link("/dev/zero")),
    "of another type": config("tokenizer_config.json", chat_template={"x": 1}),
    "several of another type": config("tokenizer_config.json", chat_template=[1, [2]]),
}


def gguf(content: bytes) -> Maker:
    """Return what makes a model's folder from a GGUF file."""

    def make(place: Place) -> list[str]:
        place.file("m.gguf", content)
        return ["model", "m.gguf", "out"]

    return make


def begin(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    """Return the beginning of a GGUF file."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def string(text: bytes, size: int | None = None) -> bytes:
    """Return a string of a GGUF file that may lie about its length."""
    return struct.pack("<Q", len(text) if size is None else size) + text


def entry(name: bytes, kind: int, value: bytes) -> bytes:
    """Return an entry of a GGUF file."""
    return string(name) + struct.pack("<I", kind) + value


def tensor(
    dims: list[int], kind: int = 0, offset: int = 0, name: bytes = b"token_embd.weight"
) -> bytes:
    """Return what a GGUF file says of a tensor."""
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + sizes + struct.pack("<IQ", kind, offset)


ARCHITECTURE = entry(b"general.architecture", 8, string(b"llama"))


def of_llama(*entries: bytes, tensors: bytes = b"", number: int = 0) -> Maker:
    """Return a GGUF file of a Llama."""
    head = begin(number, 1 + len(entries)) + ARCHITECTURE + b"".join(entries) + tensors
    return gguf(head + bytes(-len(head) % 32) + bytes(256))


def u32(name: str, value: int) -> bytes:
    """Return an entry of a whole number."""
    return entry(name.encode(), 4, struct.pack("<I", value))


GGUF = {
    "only the beginning": gguf(b"GGUF"),
    "no version": gguf(b"GGUF\3"),
    "version 99": gguf(begin(version=99)),
    "version 1": gguf(begin(version=1)),
    "the other order of bytes": gguf(b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
    "nothing after the beginning": gguf(begin()),
    "2^63 tensors": gguf(begin(tensors=1 << 63)),
    "2^40 tensors": gguf(begin(tensors=1 << 40) + bytes(4096)),
    "2^63 entries": gguf(begin(entries=1 << 63)),
    "2^40 entries of nothing": gguf(begin(entries=1 << 40) + bytes(4096)),
    "a string of 2^63 bytes": gguf(begin(entries=1) + string(b"x", 1 << 63)),
    "a string of 2^40 bytes": gguf(begin(entries=1) + string(b"x", 1 << 40)),
    "a string that is no text": of_llama(entry(b"\xff\xfe", 8, string(b"\xff\xff"))),
    "a name with an escape sequence": of_llama(entry(b"\x1b[2J", 8, string(b"\x1b[2J"))),
    "a type that is none": of_llama(entry(b"x", 99, b"")),
    "an array of 2^40": of_llama(entry(b"x", 9, struct.pack("<IQ", 4, 1 << 40))),
    "an array of 2^40 bytes": of_llama(entry(b"x", 9, struct.pack("<IQ", 0, 1 << 40))),
    "an array of arrays of arrays": of_llama(
        entry(b"x", 9, struct.pack("<IQ", 9, 1) * 5000)
    ),
    "an entry twice": of_llama(u32("llama.block_count", 1), u32("llama.block_count", 2)),
    "an architecture that is none": gguf(
        begin(entries=1) + entry(b"general.architecture", 8, string(b"../evil")) + bytes(64)
    ),
    "an architecture of a number": gguf(
        begin(entries=1) + u32("general.architecture", 7) + bytes(64)
    ),
    "no tokens": of_llama(
        u32("llama.block_count", 1), u32("llama.embedding_length", 8),
        entry(b"tokenizer.ggml.model", 8, string(b"gpt2")),
    ),
    "4 milliard layers": of_llama(u32("llama.block_count", (1 << 32) - 1)),
    "a tensor of 2^60 numbers": of_llama(tensors=tensor([1 << 60]), number=1),
    "a tensor that overflows": of_llama(tensors=tensor([1 << 40, 1 << 40]), number=1),
    "a tensor outside": of_llama(tensors=tensor([4], offset=1 << 50), number=1),
    "a tensor of a type that is none": of_llama(tensors=tensor([4], kind=999), number=1),
    "a tensor of 10^6 dimensions": gguf(
        begin(1) + string(b"x") + struct.pack("<I", 1_000_000) + bytes(4096)
    ),
    "a tensor twice": of_llama(tensors=tensor([4]) * 2, number=2),
    "an alignment of 0": of_llama(u32("general.alignment", 0), tensors=tensor([4]), number=1),
    "an alignment of 2^32": of_llama(
        u32("general.alignment", (1 << 32) - 1), tensors=tensor([4]), number=1
    ),
    "a megabyte of noise": gguf(b"GGUF" + bytes(range(256)) * 4096),
}  # fmt: skip
CASES: list[Case] = [
    *cases("model: config", CONFIGS),
    *cases("model: weights", WEIGHTS),
    *cases("model: tokenizer", TOKENIZERS),
    *cases("model: accepted", STAYS, frozenset({0})),
    *cases("model: chat template", TEMPLATES),
    *cases("GGUF file", GGUF),
]
