"""The statements by which a program decodes its examples while it learns from them.

They read `coded` and `model`, and leave `model` with the trained adapter on it. What they do is
what `cluster.prequential` did when the examples were coded, float for float: the model in
evaluation mode, one example at a time, gradients on throughout. Each example is learned from as
soon as it is known, all of its tokens; in later rounds only its last tokens, the answer, count.

A step moves every number by the sign of its momentum (Signum, Bernstein et al. 2018, arXiv
1802.04434). The gradient itself is the momentum, because it is damped instead of set to zero: so no
optimizer has to be written, and one example a step is enough.
"""

from search.programs.recipe import DataPart
from search.programs.token_coder import LADDER


def data_statements(part: DataPart, cuda: bool) -> list[str]:
    """Return the statements; they use `numpy`, `peft`, `torch` and `zlib`."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in sorted(part.arguments.items()))
    words = f"bytes({part.padding}) + coded" if part.padding else "coded"
    there, back = (".cuda()", ".cpu()") if cuda else ("", "")
    return [
        "from constriction import stream",
        "torch.manual_seed(0)",
        f"model = peft.get_peft_model(model, peft.LoraConfig({arguments}))",
        f"decoder = stream.queue.RangeDecoder(numpy.frombuffer({words}, 'u4')[::-1])",
        "examples = []",
        "check = 0",
        f"for place in range({part.steps * part.batch_size}):",
        f"    if place < {part.num_examples}:",
        f"        ids = [{part.start_token}]",
        f"        while ids.count({part.end_token}) < {part.end_count}:",
        f"            nats = numpy.round(model(torch.tensor([ids]){there}).logits[0, -1].tolist())",
        # `1 > 0` is lazy=True: shorter after minification, and constriction takes no 1 for True.
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
