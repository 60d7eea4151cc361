"""program.py from a recipe: a short script that runs without this package.

It contains only the statements that the recipe needs, minified by python-minifier, and is packed by
brotli into a script that unpacks itself where that is shorter. The same recipe gives the same
bytes. The script reads JSON strings, one a line, and writes one JSON string a line; payload.bin
lies beside it, the model's folder is its argument. Where demonstrations are named by index, the
train split is its second argument: JSON lists of input and target, one a line.

A program with training examples decodes them while the model learns from them. Its statements
read `coded` and `model`, and leave `model` with the trained adapter on it. They repeat, float for
float, what `kilobit.evaluators.model.text_codec` computed when it coded the examples: the model in
evaluation mode, one example at a time, gradients on except where it codes with a cache. The model
learns from an example as soon as it is decoded, from all of its tokens; in later rounds only from
its last tokens, the answer.

A step moves every number by the sign of its momentum (Signum, Bernstein et al. 2018, arXiv
1802.04434). The gradient itself is the momentum, because it is damped instead of set to zero: so no
optimizer has to be written, and one example a step is enough.
"""

import ast
import json
import math
import re
import threading
from collections.abc import Sequence

import brotli
import python_minifier

from kilobit.search.adapter_methods import METHODS
from kilobit.search.programs.numbers import LARGEST, MODEL_NAMES, count_scales
from kilobit.search.programs.postprocess import cut_source, step_source
from kilobit.search.programs.recipe import (
    AdapterPart,
    DataPart,
    NoisePart,
    PrintedPart,
    PromptPart,
    Recipe,
)
from kilobit.search.programs.token_coder import LADDER, decoder_source
from kilobit.search.streams import noise_source
from kilobit.search.task import OFFERED, ChoicePart

_TEXT = {
    "stored": "{}.decode()",
    "deflate": "zlib.decompress({}, -15).decode()",
    "zstd": (
        "zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)"
        ".decompressobj().decompress({}).decode()"
    ),
    "brotli": "brotli.decompress({}).decode()",
    "xz": (
        "lzma.decompress({}, lzma.FORMAT_RAW, filters=[{{'id': 33, 'dict_size': 1 << 24}}])"
        ".decode()"
    ),
}
# PEFT would factor the bytes of a quantised weight.
_PLAIN_FACTORS = [
    "from peft.utils.integrations import dequantize_module_weight",
    "build = peft.TinyLoraModel._create_and_replace",
    "def of_plain(tuner, config, name, target, *rest, **more):",
    "    weight = target.weight",
    "    target.weight = torch.nn.Parameter(dequantize_module_weight(target), False)",
    "    build(tuner, config, name, target, *rest, **more)",
    "    target.weight = weight",
    "peft.TinyLoraModel._create_and_replace = of_plain",
]
_MODULES = (
    "brotli",
    "constriction",
    "hashlib",
    "json",
    "lzma",
    "numpy",
    "peft",
    "re",
    "re2",
    "sys",
    "torch",
    "zlib",
    "zstandard",
)
# Python 3.11 counts the depth of a tree for all threads together: `ast.parse` raises SystemError.
_PARSING = threading.Lock()


def script(recipe: Recipe) -> bytes:
    """Return the bytes of program.py."""
    with _PARSING:
        return _minified(tuple(_statements(recipe)))


def readable_script(recipe: Recipe) -> str:
    """Return the source of program.py before minification."""
    with _PARSING:
        return _with_imports(_statements(recipe))


def _minified(lines: Sequence[str]) -> bytes:
    source = _with_imports(lines)
    short: str = python_minifier.minify(
        source, rename_globals=True, remove_literal_statements=True, hoist_literals=True
    )
    plain = short.encode()
    packed = (_packed(text) for text in (plain, plain.replace(b"\t", b" ")) if _same(text, plain))
    return min(plain, *packed, key=len)


def _same(text: bytes, plain: bytes) -> bool:
    return ast.dump(ast.parse(text)) == ast.dump(ast.parse(plain))


def _packed(plain: bytes) -> bytes:
    """Return a script that runs `plain`, which it contains compressed, as Latin-1 text."""
    code = brotli.compress(plain, mode=brotli.MODE_TEXT, quality=11, lgwin=16)
    literal = code.decode("latin-1").replace("\\", "\\\\").replace("'", "\\'")
    literal = literal.replace("\n", "\\n").replace("\r", "\\r")
    literal = re.sub("\0(?=[0-7])", r"\\x00", literal).replace("\0", "\\0")
    script = f"#coding:l1\nimport brotli\nexec(brotli.decompress('{literal}'.encode('l1')))"
    return script.encode("latin-1")


def _with_imports(lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    names = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    used = [name for name in _MODULES if name in names]
    imports = f"import {', '.join(used)}\n" if used else ""
    if "AutoTokenizer" in names:
        more = [name for name in ("BitsAndBytesConfig", "GenerationConfig") if name in names]
        taken = ", ".join(["AutoModelForCausalLM", "AutoTokenizer", *more])
        imports += f"from transformers import {taken}\n"
    return f"{imports}{body}\n"


def _statements(recipe: Recipe) -> list[str]:
    if recipe.printed is not None:
        return [*_prompt(recipe), *_printing(recipe.printed)]
    answering = [*_inputs(recipe), *_generation(recipe)]
    return [
        *_loading(recipe),
        *_prompt(recipe),
        *(_adapter(recipe.adapter, recipe) if recipe.adapter else []),
        *(data_statements(recipe.data, recipe.device == "cuda") if recipe.data else []),
        *(answering if recipe.choice is None else _choosing(recipe, recipe.choice)),
    ]


def _printing(part: PrintedPart) -> list[str]:
    """Return the statements of a program without the model; they read `prompt` if it has one."""
    if part.what == "input":
        # Inputs are JSON strings, one a line, as outputs are.
        return ["print(end=open(0).read())"]
    text = "json.dumps(prompt)" if part.what == "prompt" else repr(json.dumps(part.text))
    return ["for line in open(0):", f"    print({text})"]


def _loading(recipe: Recipe) -> list[str]:
    lines = [
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side='left')",
        f"model = AutoModelForCausalLM.from_pretrained(sys.argv[1]{_dtype(recipe)}",
    ]
    if recipe.device == "cuda" and not recipe.spread and recipe.quantization is None:
        lines[1] += ".cuda()"
    if recipe.quantization is not None and recipe.device == "cpu":
        # So it computes alike on all processors, see `kilobit.evaluators.model.machine`.
        lines += [
            "for module in model.modules():",
            "    module.training = 'bitsandbytes' in str(type(module))",
        ]
    if recipe.pad_with_end:
        lines.append("tokenizer.pad_token = tokenizer.eos_token")
    if recipe.generation is not None:
        lines.append(
            "model.generation_config = GenerationConfig("
            f"eos_token_id={list(recipe.generation.end_tokens)}, "
            f"pad_token_id={recipe.generation.pad_token})"
        )
    return lines


def _dtype(recipe: Recipe) -> str:
    if recipe.quantization is not None:
        how = "load_in_8bit=True"
        if recipe.quantization == "nf4":
            how = "load_in_4bit=True, bnb_4bit_quant_type='nf4'"
            if recipe.dtype != "float32":
                how += f", bnb_4bit_compute_dtype={recipe.dtype!r}"
        # transformers would put it on a GPU where there is one.
        where = ", device_map='cpu'" if recipe.device == "cpu" else ""
        how = f"quantization_config=BitsAndBytesConfig({how})"
        return f", dtype={recipe.dtype!r}{where}, {how})"
    if recipe.spread:
        # As much on each GPU as fits, the rest in main memory.
        return f", dtype={recipe.dtype!r}, device_map='auto')"
    if recipe.dtype == "float32":
        return ").float()"
    # Not `.half()`: that would also convert tensors that a model keeps in float32.
    return f", dtype={recipe.dtype!r})"


def _prompt(recipe: Recipe) -> list[str]:
    """Return the statements that set `prompt`, and `coded` to a numbers or examples section."""
    everything, part = "open('payload.bin', 'rb').read()", recipe.prompt
    alone = recipe.adapter is None and recipe.data is None
    if part is None:
        return [] if alone else [f"coded = {everything}"]
    lines = [] if alone else [f"payload = {everything}"]
    section = everything if alone else f"payload[:{part.num_bytes}]"
    if part.codec == "index":
        lines += _shown(recipe, part, section)
    elif part.codec == "model":
        assert recipe.start_token is not None
        lines.append(f"coded = {section}")
        there = _to_device(recipe)
        source = decoder_source(recipe.start_token, part.section_head(), part.cache, there)
        lines += source.split("\n")
    else:
        lines.append("prompt = " + _TEXT[part.codec].format(section))
    if not alone:
        lines.append(f"coded = payload[{part.num_bytes}:]")
    return lines


def _shown(recipe: Recipe, part: PromptPart, section: str) -> list[str]:
    """Return the statements that read demonstrations from the train split."""
    before, _, after = recipe.question.partition("{input}")
    head, _, tail = part.answer.partition("{target}")
    texts = [repr(before), "train[i][0]", repr(after + head), "train[i][1]", repr(tail)]
    if recipe.turns:
        texts[2:3] = [repr(after + recipe.turns + head)]
    shown = " + ".join(text for text in texts if text != "''")
    lead = f"{part.lead!r} + " if part.lead else ""
    return [
        "train = [json.loads(line) for line in open(sys.argv[2])]",
        f"prompt = {lead}{recipe.turns!r}.join({shown} "
        f"for i in numpy.frombuffer({section}, '>u2'))",
    ]


def _to_device(recipe: Recipe) -> str:
    """Return the call that moves a tensor to the model's device."""
    if recipe.spread:
        return ".to(model.device)"
    return ".cuda()" if recipe.device == "cuda" else ""


def _conversion(recipe: Recipe) -> str:
    """Return the call that converts a tensor to the model's device and number format."""
    return "" if recipe.device == "cpu" and recipe.dtype == "float32" else ".to(row)"


def _adapter(part: AdapterPart, recipe: Recipe) -> list[str]:
    """Return the statements that add parameters and fill them with numbers.

    The numbers are in rows along the longer side of each parameter.
    """
    code, method, conversion = part.numbers, METHODS[part.method], _conversion(recipe)
    lines = method.statements(part.config, part.arguments, part.factor_sum, part.seed)
    if part.noise is not None:
        count = sum(rows * columns for rows, columns in part.shapes)
        lines.append(f"model.numbers = torch.nn.Parameter(torch.zeros({count}))")
    if recipe.quantization is not None and part.factor_sum is not None:
        lines = _PLAIN_FACTORS + lines
    step = "2 ** (coded[0] / 8 - 24)"
    if code.steps == "tensor":
        number = len(part.shapes)
        lines += [f"more = [*coded[:{number}]]", f"coded = coded[{number}:]"]
        step = "2 ** ((coded[0] + more.pop(0)) / 8 - 24)"
    elif code.steps == "factor":
        lines += ["more = coded", "coded = coded[1:]"]
        step = "2 ** (more['lora_B' in name] / 8 - 24)"
    if code.coder == "packed":
        lines.append("number = int.from_bytes(coded[2:])")
        row_lines = [
            "values = []",
            "for _ in row:",
            "    number, digit = divmod(number, coded[1])",
            "    values += [digit - coded[1] // 2]",
        ]
        values = "values"
    elif code.coder == "replay":
        lines += _sums(part)
        row_lines = ["values, sums = sums[:len(row)], sums[len(row):]"]
        values = "values"
    else:
        model = f"constriction.stream.model.{MODEL_NAMES[code.coder]}"
        lines += [
            f"stream = coded[{1 + count_scales(part.shapes, code)}:]",
            "decoder = constriction.stream.queue.RangeDecoder("
            "numpy.frombuffer(bytes(-len(stream) % 4) + stream, numpy.uint32)[::-1])",
            *(["scales = [*coded[1:]]"] if code.scales == "row" else []),
        ]
        row_lines = [f"scale = {'scales.pop(0)' if code.scales == 'row' else 'coded[1]'}"]
        spread = "2 ** (scale / 16 - 4)"
        values = f"decoder.decode({model}(-{LARGEST}, {LARGEST}, 0., {spread}), len(row))"
    add = f"torch.tensor({values}) * step"
    add = f"row += ({add}){conversion}" if conversion else f"row += {add}"
    if code.scales == "row":
        add = f"if scale: {add}"
    return [
        *lines,
        "for name, weight in model.named_parameters():",
        f"    if {method.condition(part.targets)}:",
        f"        step = {step}",
        "        rows = torch.atleast_2d(weight.data)",
        *([] if part.delta else ["        rows.zero_()"]),
        "        for row in rows.T if len(rows) > rows.shape[1] else rows:",
        *(f"            {line}" for line in row_lines),
        f"            {add}",
        *([] if part.noise is None else _along_noise(part.noise)),
    ]


def _along_noise(part: NoisePart) -> list[str]:
    """Return the statements that change weights along directions drawn from noise."""
    draws, chosen = list(part.draws), f"re.search({part.pattern!r}, name)"
    weights = f"[weight.data for name, weight in model.named_parameters() if {chosen}]"
    if part.rank is None:
        words = noise_source("seed", "0", str(8 * (part.size or 0)))
        return [
            f"weights = {weights}",
            "numbers = [*model.numbers.data]",
            f"for seed in {draws}:",
            f"    for which, at in numpy.frombuffer({words}, '<u4').reshape(-1, 2).tolist():",
            "        row = weights[which % len(weights)].view(-1)",
            "        row[at % len(row)] += numbers.pop(0)",
        ]
    signs = noise_source("seed", "place", "count // 8 + 1")
    return [
        f"for place, weight in enumerate({weights}):",
        f"    for seed, number in zip({draws}, model.numbers.tolist()):",
        f"        count = {part.rank} * sum(weight.shape)",
        f"        bits = numpy.unpackbits(numpy.frombuffer({signs}, 'u1'))[:count] * 2. - 1",
        f"        left, right = torch.tensor(bits).split([{part.rank} * n for n in weight.shape])",
        f"        weight += number * (left.view(-1, {part.rank}) @ "
        f"right.view({part.rank}, -1)).to(weight)",
    ]


def _sums(part: AdapterPart) -> list[str]:
    """Return the statements that set `sums` to the sums of a replay, from `coded`."""
    num_bytes = math.ceil(sum(rows * columns for rows, columns in part.shapes) / 8)
    noise = noise_source("coded[2]", "i", str(num_bytes))
    return [
        "sums = 0",
        "number = int.from_bytes(coded[4:])",
        f"for i in range({part.numbers.signs}):",
        "    number, rest = divmod(number, 128)",
        "    if rest < coded[3]:",
        "        number = number * coded[3] + rest",
        "    else:",
        "        number, bit = divmod(number * (128 - coded[3]) + rest - coded[3], 2)",
        f"        noise = numpy.frombuffer({noise}, 'u1')",
        "        sums = sums + numpy.where(numpy.unpackbits(noise) == bit, 1, -1)",
        "assert sums.sum() % 251 == coded[1]",
    ]


def _inputs(recipe: Recipe) -> list[str]:
    """Return the statements that set `inputs` to the texts that the model continues."""
    *dated, text = _asked(recipe, "json.loads(line)")
    return [*dated, f"inputs = [{text} for line in sys.stdin]"]


def _asked(recipe: Recipe, question: str) -> list[str]:
    """Return statements to run once, and the expression of the text that the model continues.

    Args:
        recipe: the recipe.
        question: the expression of what fills the template.
    """
    before, _, after = recipe.question.partition("{input}")
    parts = [repr(before)] if before else []
    parts += [question, *([repr(after)] if after else [])]
    prompt = ["prompt"] if recipe.prompt and not recipe.turns else []
    if not recipe.chat:
        return [" + ".join(prompt + parts)]
    content = " + ".join(prompt + parts)
    turns = f"[{{'role': 'user', 'content': {content}}}]"
    if recipe.turns:
        # A prompt has half as many characters as there are turns, or more.
        turns = (
            "[dict(role=role, content=text) for role, text in zip(['user', 'assistant'] * "
            f"len(prompt), [*prompt.split({recipe.turns!r}), {content}])]"
        )
    more = "".join(f", {name}={value}" for name, value in recipe.template.items())
    opening = f" + {recipe.opening!r}" if recipe.opening else ""
    dated = f"tokenizer.chat_template = {clock(recipe.today)!r} + tokenizer.get_chat_template()"
    return [
        *([] if recipe.today is None else [dated]),
        f"tokenizer.apply_chat_template({turns}, tokenize=False, "
        f"add_generation_prompt=True{more}){opening}",
    ]


def clock(today: str | None) -> str:
    """Return the text before a chat template by which its clock says `today`."""
    # Jinja drops the line end after a block, and the template begins on a line of its own.
    return f"{{% macro strftime_now(f) %}}{today}{{% endmacro %}}\n"


def _choosing(recipe: Recipe, part: ChoicePart) -> list[str]:
    """Return the statements that print the likeliest of the answers that each input offers.

    An answer begins where the tokens of the question end, white space at its end left out: as
    lm-evaluation-harness divides the tokens of both.
    """
    special = "" if recipe.special_tokens and not recipe.chat else ", add_special_tokens=False"
    there, between = _to_device(recipe), f"{part.delimiter!r} + " if part.delimiter else ""
    size = {"answer": "", "character": " / len(answer)", "byte": " / len(answer.encode())"}
    *dated, text = _asked(recipe, "question")
    return [
        *dated,
        "@torch.no_grad()",
        "def cost(answer):",
        f"    ids = tokenizer(text + {between}answer{special}).input_ids",
        f"    start = len(tokenizer(text.rstrip(){special}).input_ids)",
        "    labels = [-100] * start + ids[start:]",
        f"    return model(torch.tensor([ids]){there}, labels=torch.tensor([labels]){there})"
        f".loss * (len(ids) - start){size[part.per]}",
        "for line in sys.stdin:",
        f"    question, *answers = json.loads(line).split({OFFERED!r})",
        f"    text = {text}",
        "    print(json.dumps(min(answers, key=cost)))",
    ]


def _generation(recipe: Recipe) -> list[str]:
    """Return the statements that continue the inputs greedily in batches and print the outputs.

    With thinking, each batch is continued twice: first to the end of the thinking, then from there.
    """
    size = recipe.batch_size
    special = "" if recipe.special_tokens and not recipe.chat else ", add_special_tokens=False"
    conversion = _to_device(recipe)
    stop = f", tokenizer=tokenizer, stop_strings={list(recipe.stop)!r}" if recipe.stop else ""
    text = "tokenizer.decode(row[batch.input_ids.shape[1]:], skip_special_tokens=True)"
    texts, limit, think = f"inputs[:{size}]", str(recipe.max_new_tokens), recipe.thinking
    if think is not None:
        texts, limit = "texts", "limit"
        stop = ", tokenizer=tokenizer, stop_strings=stop"
    batch = f"batch = tokenizer({texts}, padding=True, return_tensors='pt'{special})"
    greedy = "" if recipe.generation else "do_sample=False, "
    rows = (
        f"model.generate(input_ids=batch.input_ids{conversion}, "
        f"attention_mask=batch.attention_mask{conversion}, {greedy}"
        f"max_new_tokens={limit}{stop})"
    )
    lines = ["while inputs:", f"    {batch}", f"    for row in {rows}:"]
    if think is not None:
        first = f"inputs[:{size}]"
        answer_stop = list(recipe.stop) or None
        lines = [
            "def continued(texts, limit, stop):",
            f"    {batch}",
            f"    return [{text} for row in {rows}]",
            "while inputs:",
            "    for text in continued([question + "
            f"thought.split({think.mark!r})[0] + {think.close!r} for question, thought in "
            f"zip(inputs, continued({first}, {think.tokens}, [{think.mark!r}]))], "
            f"{recipe.max_new_tokens}, {answer_stop!r}):",
        ]
        text = "text"
    sources = [step_source(step, recipe.steps_rule) for step in recipe.postprocess]
    if sources and recipe.steps_rule == 1:
        lines.append(f"        text = {text}")
        printed = "text"
    elif sources:
        # The last step is an argument of `print`, which packs shorter than one more assignment.
        lines.append(f"        text = {cut_source(text, recipe.stop)}")
        *sources, printed = sources
    else:
        printed = text
    lines += [f"        text = {source}" for source in sources]
    lines.append(f"        print(json.dumps({printed}))")
    return [*lines, f"    del inputs[:{size}]"]


def data_statements(part: DataPart, cuda: bool) -> list[str]:
    """Return the statements; they use `numpy`, `peft`, `torch` and `zlib`."""
    words = f"bytes({part.padding}) + coded" if part.padding else "coded"
    there, back = (".cuda()", ".cpu()") if cuda else ("", "")
    begin, step, read = [], [], f"model(torch.tensor([ids]){there}).logits"
    if part.cache != "none":
        begin, read = ["        found = 0, None"], "found[0]"
        # A graph would hold the keys and values of every step.
        last = f"torch.tensor([ids[-1:]]){there}"
        step = [
            "            with torch.no_grad():",
            f"                found = model({last}, {part.cache}=found[1])",
        ]
    return [
        "from constriction import stream",
        *METHODS["data"].statements("LoraConfig", part.arguments),
        f"decoder = stream.queue.RangeDecoder(numpy.frombuffer({words}, 'u4')[::-1])",
        "examples = []",
        "check = 0",
        f"for place in range({part.steps * part.batch_size}):",
        f"    if place < {part.num_examples}:",
        f"        ids = [{part.start_token}]",
        *begin,
        f"        while ids.count({part.end_token}) < {part.end_count}:",
        *step,
        f"            nats = numpy.round({read}[0, -1].tolist())",
        # `1 > 0` is lazy=True: shorter after minification, and constriction rejects 1 for True.
        "            ids += (decoder.decode(stream.model.Categorical("
        f"2.72 ** (nats - max(nats) + {len(LADDER) - 1}) // 1, 1 > 0)),)",
        f"        batch = torch.tensor([ids]){there}",
        "        examples += ((batch, batch + 0),)",
        f"    batch, labels = examples[place % {part.num_examples}]",
        "    model(batch, labels=labels).loss.backward()",
        f"    labels[0, :-{part.answer_tokens}] = -100",
        *(f"    {line}" for line in _step(part, back)),
        f"assert check == {part.checksum}",
    ]


def _step(part: DataPart, back: str) -> list[str]:
    total = part.full_steps * part.batch_size
    lines = [
        "for weight in model.parameters():",
        "    if weight.requires_grad:",
        f"        weight.data -= {part.learning_rate!r} * (1 - place / {total}) "
        "* weight.grad.sign()",
        f"        weight.grad *= {part.momentum!r}",
        f"        check = zlib.crc32(weight.data{back}.numpy(), check)",
    ]
    if part.batch_size == 1:
        return lines
    last = part.batch_size - 1
    return [f"if place % {part.batch_size} == {last}:", *(f"    {line}" for line in lines)]
