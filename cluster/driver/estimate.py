"""Estimate of the work of a search before it begins: tokens, FLOP, and the time on this machine.

Tokens are those of the task's first examples and of the candidates' prompts. FLOP are 2 for each
token and parameter where a model reads or writes, 6 where it learns (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1). Seconds come from a few short passes of a model of the same shape
with any weights, or for a large one from its FLOP and the speed of a matrix product. What they do
not count: Ray, loading, building and proving programs, dequantisation, and a judge.

How many candidates go on from a rung is known only afterwards. Two ends are given: that one in
`eta` of them does, and that all do. The estimate between them takes the mean of both shares, but of
candidates that are still trained all, because those are compared only with their like.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch

from kilobit.cluster.driver.check import Plan, count_numbers
from kilobit.cluster.driver.check_models import Shapes
from kilobit.cluster.shards.load import device_of, outline
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.sweep.workers import SearchedModel
from kilobit.evaluators.cpus_and_memory import cpus
from kilobit.evaluators.model.base_model import from_config, load_tokenizer
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.space import draw_candidates
from kilobit.search.task import Task, offered

# A model is run if it has no more parameters, in passes of not many more FLOP, so that a dry run
# takes a second or two for it: 134 million parameters took a minute.
_LARGEST, _PASS_FLOP = 30_000_000, 5e9
# Sides of a matrix whose products are as fast as they get, and of one that no cache holds.
_PRODUCT, _UNCACHED = 1024, 4096
_EXAMPLES = 32
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Work:
    """Tokens and passes of a search on one base model.

    Attributes:
        trained: tokens that are trained on; rows of a pass share its prompt.
        steps: steps of training.
        read: tokens that are read before answers; rows of a pass share its prompt.
        written: tokens of answers.
        passes: passes that write a token of each of their rows.
    """

    trained: float = 0.0
    steps: float = 0.0
    read: float = 0.0
    written: float = 0.0
    passes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def times(self, factor: float) -> "Work":
        """Return this work, `factor` times."""
        return Work(*(factor * number for number in astuple(self)))

    def flop(self, parameters: int) -> float:
        """Return its floating point operations on a model of so many parameters."""
        return parameters * (6 * self.trained + 2 * (self.read + self.written))


@dataclass(frozen=True)
class Speed:
    """Seconds of a model on a device for one of each field of `Work`, and what they come from."""

    trained: float
    steps: float
    read: float
    written: float
    passes: float
    measured: str

    def seconds(self, work: Work) -> float:
        """Return the seconds of some work in one process."""
        each = (self.trained, self.steps, self.read, self.written, self.passes)
        return float(sum(a * b for a, b in zip(each, astuple(work), strict=True)))


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a question and of an answer, and the tokens of each prompt.

    `offers` is the mean number of answers that an input offers, 0 where an answer is generated.
    """

    question: float
    answer: float
    prompts: Mapping[str, int]
    offers: float = 0.0

    @classmethod
    def of(cls, task: Task, tokenizer: Any, candidates: Iterable[Candidate]) -> Self:
        """Return the lengths of a task's first examples and of some candidates' prompts."""

        def mean(texts: Sequence[str]) -> float:
            return sum(map(len, tokenizer(list(texts))["input_ids"])) / max(len(texts), 1)

        shown = list(islice((*task.splits.search, *task.splits.train), _EXAMPLES))
        texts = list(dict.fromkeys(c.before(task) for c in candidates))
        offers = [len(offered(e.input)[1]) for e in task.splits.search[:_EXAMPLES]]
        return cls(
            mean([task.ask(e.question) for e in shown]),
            mean([task.show(e.target) for e in shown]),
            {text: len(tokenizer(text)["input_ids"]) if text else 0 for text in texts},
            sum(offers) / len(offers),
        )


@dataclass(frozen=True)
class Estimate:
    """Estimate for one base model.

    Attributes:
        model: label of the base model.
        first_flop: FLOP of the first rung.
        flop: FLOP of the whole search.
        seconds: of one worker for the first rung, and for the whole search if few, as many as
            expected or all candidates go on from each rung; None if unknown.
        workers: number of its workers.
        measured: what the seconds come from, or why they are unknown, as text.
        rollouts: answers that training by reward generates if all candidates go on to the end.
    """

    model: str
    first_flop: float
    flop: float
    seconds: tuple[float, ...] | None
    workers: int
    measured: str
    rollouts: int = 0

    def line(self) -> str:
        """Return the estimate as text."""
        first, whole = _flop(self.first_flop), _flop(self.flop)
        if self.rollouts:
            whole += f", at most {self.rollouts:,} rollouts of training by reward"
        if self.seconds is None:
            return f"{self.model}: first rung about {first}, whole search {whole}; {self.measured}"
        first_s, least, middle, most = map(_time, self.seconds)
        return (
            f"{self.model}: first rung about {first} and {first_s} of a worker, whole search "
            f"{whole} and {middle} ({least} to {most}), {self.measured}"
        )


def estimate(sweep: Sweep, folder: Path, plan: Plan, *, local: bool = True) -> list[Estimate]:
    """Return an estimate for each base model that is on this machine.

    Args:
        sweep: the checked sweep.
        folder: the folder that its relative paths start from.
        plan: its plan.
        local: whether the workers run on this machine; if not, their seconds are unknown.
    """
    candidates, factor = list(plan.candidates), 1.0
    if not candidates:
        # A proposer that learns begins with draws like these.
        for label in (config.label for config in sweep.base_models):
            families = sweep.families.on(template=label in plan.templates)
            candidates += draw_candidates(families, plan.task, [label], sweep.seed)
        factor = (plan.num_candidates or len(candidates)) / max(len(candidates), 1)
    found: list[Estimate] = []
    speeds: dict[str, Speed] = {}
    fewest = 1.0 if sweep.scheduler.kind == "full" else 1 / sweep.rungs.eta
    for config in sweep.base_models:
        if config.label not in plan.shapes:
            continue
        own = [candidate for candidate in candidates if candidate.model == config.label]
        tokenizer, _ = load_tokenizer(config, folder)
        lengths = Lengths.of(plan.task, tokenizer, own)
        model = outline(config, folder)
        parameters = computing(model)
        speed, why = None, "its speed is not known here"
        if local and (device_of(config) == "cpu" or torch.cuda.is_available()):
            # Models of one shape are equally fast.
            shape = f"{config.dtype} {config.device} {sorted(plan.shapes[config.label].items())}"
            if shape not in speeds:
                speeds[shape] = speed_of(config, folder, model, lengths)
            speed = speeds[shape]
            why = speed.measured
        ends = []
        for share in (fewest, (1 + fewest) / 2, 1.0):
            of_learners = fewest if share == fewest else 1.0
            args = (sweep, plan.task, config, own, lengths, plan.shapes[config.label])
            works = works_of(*args, share, of_learners)
            ends.append([work.times(factor) for work in works])
        first, *whole = ends[0][0], *(sum(works, Work()) for works in ends)
        seconds = None
        if speed is not None:
            threads = sweep.workers.threads if device_of(config) == "cpu" else 1
            seconds = tuple(speed.seconds(work) / threads for work in (first, *whole))
        flop = first.flop(parameters), whole[1].flop(parameters)
        workers = sweep.workers.over(config.workers).per_model
        most = sweep.rungs.ladder()[-1].train_steps
        shapes = plan.shapes[config.label]
        rollouts = round(factor * sum(_rollouts(one, most, shapes) for one in own))
        found.append(Estimate(config.label, *flop, seconds, workers, why, rollouts))
    return found


def lines_of(estimates: Sequence[Estimate], budget_s: float | None) -> list[str]:
    """Return the estimates as text, and a warning where the search takes hours."""
    lines = [one.line() for one in estimates]
    known = [(one.seconds[2], one.workers) for one in estimates if one.seconds is not None]
    if not known:
        return lines
    # Workers share the processors; a model's own workers share its candidates.
    longest = max(seconds / workers for seconds, workers in known)
    at_once = min(cpus(), sum(workers for _, workers in known))
    whole = max(longest, sum(seconds for seconds, _ in known) / at_once)
    lines.append(
        f"estimate: the search takes about {_time(whole)} on this machine, without starting, "
        "building programs and proving them"
    )
    if whole >= _HOUR_S:
        ends = (
            "without `budget.seconds` it goes on to its end"
            if budget_s is None
            else f"after `budget.seconds`, {_time(budget_s)}, no further rung is started"
        )
        lines.append(
            f"warning: that is hours; {ends}. A smaller `rungs.examples` or `rungs.count`, fewer "
            "candidates or fewer steps shorten it"
        )
    return lines


def works_of(
    sweep: Sweep,
    task: Task,
    config: SearchedModel,
    candidates: Sequence[Candidate],
    lengths: Lengths,
    shapes: Shapes,
    share: float = 1.0,
    of_learners: float = 1.0,
) -> list[Work]:
    """Return the expected work of each rung.

    Args:
        sweep: the sweep.
        task: its task.
        config: the base model.
        candidates: those of the base model.
        lengths: tokens of the task and of their prompts.
        shapes: of the base model's parameters.
        share: share of the candidates that go on from a rung.
        of_learners: the same of those whose training is not at its end.
    """
    ladder, batch = sweep.rungs.ladder(), sweep.workers.batch_size
    found = [Work() for _ in ladder]
    for candidate in candidates:
        # A model that nothing was trained into ends no answer.
        limit = min(candidate.max_new_tokens or task.max_new_tokens, task.max_new_tokens)
        answer = limit if config.weights == "random" else min(lengths.answer, limit)
        own, reached = replace(lengths, answer=answer), 1.0
        for rung in ladder:
            if candidate.adapter is not None and candidate.adapter.training == "reward":
                work = _rolling(candidate, rung, ladder, own, shapes, task)
            else:
                work = _training(candidate, rung, ladder, lengths, task)
            work += _scoring(candidate, rung, ladder, own, batch, task)
            if rung is ladder[-1] and sweep.rate_search is not None:
                codings = len(sweep.rate_search.variants(candidate))
                work += _answers(candidate, rung.num_examples, own, batch, task).times(codings)
            found[rung.index] += work.times(reached)
            learns = rung.index < candidate.trained_at(ladder)
            reached *= of_learners if learns else share
    return found


def _training(
    candidate: Candidate, rung: Rung, ladder: Sequence[Rung], lengths: Lengths, task: Task
) -> Work:
    spec = candidate.adapter
    if spec is None:
        return Work()
    before = ladder[rung.index - 1].train_steps if rung.index else 0
    steps = min(rung.train_steps, spec.steps) - min(before, spec.steps)
    # Rows of a step share the pass over their prompt.
    prompt = lengths.prompts[candidate.before(task)]
    each = spec.batch_size * (lengths.question + lengths.answer) + prompt
    return Work(trained=steps * each, steps=steps)


def _rolling(
    candidate: Candidate,
    rung: Rung,
    ladder: Sequence[Rung],
    lengths: Lengths,
    shapes: Shapes,
    task: Task,
) -> Work:
    """Return the work of a training by reward from the rung before; a generation is a batch."""
    before = ladder[rung.index - 1].train_steps if rung.index else 0
    number = _rollouts(candidate, rung.train_steps, shapes)
    number -= _rollouts(candidate, before, shapes)
    of_a_generation = _rollouts(candidate, 1, shapes)
    return _answers(candidate, number, lengths, of_a_generation, task)


def _rollouts(candidate: Candidate, generations: int, shapes: Shapes) -> int:
    """Return how many answers are generated for a training by reward up to so many generations."""
    spec = candidate.adapter
    if spec is None or spec.training != "reward":
        return 0
    members = 2 * spec.num_pairs(count_numbers(spec, shapes))
    return min(generations, spec.steps) * members * spec.batch_size


def _scoring(
    candidate: Candidate,
    rung: Rung,
    ladder: Sequence[Rung],
    lengths: Lengths,
    batch: int,
    task: Task,
) -> Work:
    number = rung.num_examples
    if rung.index > candidate.trained_at(ladder):
        # What it said at the rung before, it says again.
        number -= ladder[rung.index - 1].num_examples
    return _answers(candidate, number, lengths, batch, task)


def _answers(candidate: Candidate, number: int, lengths: Lengths, batch: int, task: Task) -> Work:
    passes = -(-number // batch)
    prompt = lengths.prompts[candidate.before(task)]
    if task.choice is not None:
        # Each offered answer is read after the whole question.
        rows = number * lengths.offers
        return Work(read=rows * (prompt + lengths.question + lengths.answer), passes=passes)
    return Work(
        read=number * lengths.question + passes * prompt,
        written=number * lengths.answer,
        passes=passes * lengths.answer,
    )


def computing(model: Any) -> int:
    """Return the number of parameters that a token is multiplied with: all but a looked-up table.

    Args:
        model: on any device; experts count as if all were used.
    """
    looked_up = model.get_input_embeddings().weight
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is looked_up
    return sum(p.numel() for p in model.parameters() if tied or p is not looked_up)


def speed_of(config: SearchedModel, folder: Path, model: Any, lengths: Lengths) -> Speed:
    """Return the speed of a model on this machine, on a CPU that of one thread.

    Threads that wait for one another count as processor time, so one is measured.

    Args:
        config: the base model.
        folder: base of its relative path.
        model: its skeleton, on the meta device.
        lengths: tokens of the rows that it will read.
    """
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if computing(model) <= _LARGEST:
            # A model of a kind that can't be run so may raise anything.
            with suppress(Exception):
                return _by_passes(config, folder, lengths)
        return _by_products(config, model)
    finally:
        torch.set_num_threads(kept)


def _by_products(config: SearchedModel, model: Any) -> Speed:
    device, parameters = device_of(config), computing(model)

    def seconds(rows: int, side: int) -> float:
        options: dict[str, Any] = {"dtype": getattr(torch, config.dtype), "device": device}
        x, weight = torch.ones(rows, side, **options), torch.ones(side, side, **options)
        return _seconds(partial(torch.nn.functional.linear, x, weight), device)

    rate = 2 * _PRODUCT**3 / seconds(_PRODUCT, _PRODUCT)
    each = parameters / rate
    # With few rows a product is as slow as its weights are read.
    one = seconds(1, _UNCACHED) * parameters / _UNCACHED**2
    said = f"by {rate / 1e9:.0f} GFLOP/s of a matrix product"
    return Speed(6 * each, 0.0, 2 * each, 2 * each, one, said)


def _by_passes(config: SearchedModel, folder: Path, lengths: Lengths) -> Speed:
    device, dtype = device_of(config), getattr(torch, config.dtype)
    model = from_config(config, folder, dtype).to(device).eval().requires_grad_(False)
    width = max(8, round(lengths.question + lengths.answer))
    context = getattr(model.config, "max_position_embeddings", None) or width
    width = min(width, context - 1)
    parameters = computing(model)
    rows = max(1, min(16, int(_PASS_FLOP / (6 * parameters * width))))
    ids = torch.ones(rows, width, dtype=torch.long, device=device)
    embeddings = model.get_input_embeddings()

    def train(number: int) -> None:
        # The gradient reaches every layer from where it begins, as that of an adapter does.
        start = embeddings(ids[:number]).detach().requires_grad_()
        model(inputs_embeds=start, use_cache=False).logits.float().logsumexp(-1).sum().backward()

    @torch.no_grad()
    def read() -> None:
        model(input_ids=ids, use_cache=True, logits_to_keep=1)

    @torch.no_grad()
    def write(number: int) -> None:
        model(input_ids=ids[:number, :1], use_cache=True)

    def of_rows(work: Callable[[int], None]) -> tuple[float, float]:
        """Return the seconds of a row, and of a pass besides."""
        one, several = (_seconds(partial(work, n), device) for n in (1, rows))
        each = max(0.0, several - one) / max(1, rows - 1)
        return each, max(0.0, one - each)

    train_s, step_s = of_rows(train)
    write_s, pass_s = of_rows(write)
    read_s = _seconds(read, device) / (rows * width)
    return Speed(train_s / width, step_s, read_s, write_s, pass_s, "measured in short passes")


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the least seconds of two runs: of this process on a CPU, so others do not count."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    work()
    for _ in range(2):
        if device == "cuda":
            torch.cuda.synchronize()
        began = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - began)
    return min(times)


def _flop(number: float) -> str:
    units = (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9))
    unit, size = next((u for u in units if number >= u[1]), units[-1])
    return f"{number / size:.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.0f} days"
