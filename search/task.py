"""A task: three disjoint splits, a fixed template and a scoring rule.

Loading checks that no two splits share an input, or a cluster: the passage, document or user of
examples that belong together. The task's seed fixes the order of each split, so the examples of a
small rung are always the first examples of a larger rung; where few targets differ, a prefix has
each as often as the whole split.
"""

import hashlib
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol

from kilobit.search.programs.postprocess import cut
from kilobit.search.settings import Config
from kilobit.search.streams import stream

LEVEL = 0.95
# Fewest examples of a split for each target that differs, for an order that is balanced over them.
_LEAST_EACH = 4
# Stands before each answer that an input offers: ASCII's record separator.
OFFERED = "\x1e"


class ChoicePart(Config):
    """Choice of the likeliest of the answers that an input offers after its question.

    Attributes:
        delimiter: text between the question and an answer.
        per: what the log-probability of an answer is divided by.
    """

    delimiter: str = ""
    per: Literal["answer", "character", "byte"] = "answer"

    def likeliest(self, answers: Sequence[str], nats: Sequence[float]) -> str:
        """Return the first answer with the largest log-probability, given that of each."""
        told = [one / self._size(text) for text, one in zip(answers, nats, strict=True)]
        return answers[told.index(max(told))]

    def _size(self, answer: str) -> int:
        if self.per == "answer":
            return 1
        return len(answer) if self.per == "character" else len(answer.encode())


def offered(text: str) -> tuple[str, list[str]]:
    """Return the question of an input and the answers that it offers, if it offers any."""
    question, *answers = text.split(OFFERED)
    return question, answers


@dataclass(frozen=True)
class Example:
    """One item of a task: `id` is a hash of its input, `extra` holds further data for the metric.

    Demonstrations show `target` and adapters are trained on it. Outputs are compared with `gold`.
    """

    id: str
    input: str
    target: str
    extra: Mapping[str, str]

    @property
    def question(self) -> str:
        """Return the input without the answers that it offers."""
        return offered(self.input)[0]

    @property
    def gold(self) -> str:
        """Return the correct answer: `extra["gold"]` if present, else the target."""
        return self.extra.get("gold", self.target)

    @property
    def cluster(self) -> str | None:
        """Return the name of the examples that it belongs to, or None."""
        return self.extra.get("cluster")

    @property
    def unit(self) -> str:
        """Return a name that examples share only if they are in one cluster."""
        return self.id if self.cluster is None else f"\x1f{self.cluster}"


@dataclass(frozen=True)
class Interval:
    """A score with its bounds; the bounds are None for fewer than two examples."""

    score: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Bounds:
    """A score on some examples, with bounds of the true score."""

    score: float
    lower: float
    upper: float


class Metric(Protocol):
    """A scoring rule: `corpus` is the score, `per_example` serves racing and plots."""

    name: str

    def per_example(self, output: str, example: Example) -> float | None:
        """Return the score of one output in [0, 1], None if a judge gave no verdict on it."""
        ...

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return further columns of one output for tables; empty for most metrics."""
        ...

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> Sequence[float | None]:
        """Return `per_example` of each output; a metric may compute them together."""
        ...

    def contributions(
        self, outputs: Sequence[str], examples: Sequence[Example]
    ) -> Sequence[float | None]:
        """Return a number for each output whose mean is the score of all, for paired tests.

        For most metrics it is the score of the output. For others it is what the score loses
        without the output (the jackknife's influence), and may lie outside of [0, 1].
        """
        ...

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return the score of all outputs that have one with its 95 % interval."""
        ...

    def bounds(
        self,
        outputs: Sequence[Sequence[str]],
        examples: Sequence[Example],
        num_programs: int,
        level: float = LEVEL,
    ) -> list[Bounds]:
        """Return the score of each program with bounds that hold for all of them at once.

        Args:
            outputs: the outputs of each program for the same examples.
            examples: examples that played no part in selecting the programs.
            num_programs: number of programs selected together, including those that failed.
            level: probability that all bounds hold.
        """
        ...


@dataclass(frozen=True)
class Splits:
    """The examples of a task: learn from `train`, compare on `search`, certify on `sealed`."""

    train: tuple[Example, ...]
    search: tuple[Example, ...]
    sealed: tuple[Example, ...]

    def balanced(self) -> "Splits":
        """Return the splits, train and search in an order that is balanced over their targets.

        Any first examples then have each target as often as the whole split, up to two. A split
        keeps its order if it has fewer than four examples for each target that differs.
        """
        return replace(self, train=_balanced(self.train), search=_balanced(self.search))


def _balanced(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    number = Counter(example.gold for example in examples)
    if _LEAST_EACH * len(number) > len(examples):
        return examples
    before = Counter[str]()
    places = []
    for example in examples:
        # Where its target is to be so many times, in parts of the split: at (k + 1/2) / n.
        places.append(Fraction(2 * before[example.gold] + 1, number[example.gold]))
        before[example.gold] += 1
    # Sorting is stable: equal places keep the drawn order, so no target is always the first.
    return tuple(examples[at] for at in sorted(range(len(examples)), key=places.__getitem__))


@dataclass(frozen=True)
class Task:
    """A task: templates, limits, scoring rule and splits.

    Attributes:
        name: a short label for tables.
        question: template of the text before an answer, with `{input}`.
        answer: template of an answer in a demonstration, with `{target}`.
        stop: strings that end a generation; they and all text after them are cut from an output.
        max_new_tokens: the longest generation the task allows.
        metric: the scoring rule.
        splits: the three splits, each in its fixed order.
        choice: how an answer is chosen from those that an input offers; None if it is generated.
            Inputs of the train split are questions alone.
    """

    name: str
    question: str
    answer: str
    stop: tuple[str, ...]
    max_new_tokens: int
    metric: Metric
    splits: Splits
    choice: ChoicePart | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return input and target of each example of the train split, in its order."""
        return [(example.input, example.target) for example in self.splits.train]

    def ask(self, text: str) -> str:
        """Return the text that the model continues for the input `text`."""
        return self.question.replace("{input}", text)

    def show(self, target: str) -> str:
        """Return the answer text of a demonstration for `target`."""
        return self.answer.replace("{target}", target)

    @property
    def turn(self) -> str:
        """Return the template of an answer that is a turn of its own in a chat.

        The end of the turn ends it, so no stop string does, and no white space is around it.
        """
        before, mark, after = self.answer.partition("{target}")
        return (before + mark + cut(after, self.stop)).strip()

    def cut(self, output: str, steps: Sequence[str] = ()) -> str:
        """Return the scored part of a program's output: the text before the first stop string.

        Args:
            output: what the program printed.
            steps: the program's steps; they saw the cut text, so their result is left as it is.
        """
        return output if steps else cut(output, self.stop)

    def columns(self, output: str, example: Example) -> str | None:
        """Return the metric's further columns for a cut output as JSON, or None."""
        found = self.metric.columns(output, example)
        return json.dumps(found) if found else None


def make_example(text: str, target: str, extra: Mapping[str, str] | None = None) -> Example:
    """Return an example whose id is a hash of its input (16 hex digits)."""
    return Example(_digest(text), text, target, extra or {})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def share(text: str) -> float:
    """Return a number in [0, 1) that depends only on `text`; it divides data into splits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def clusters_of(examples: Sequence[Example]) -> list[str] | None:
    """Return the name of each example's cluster, or None if no two examples share one."""
    names = [example.unit for example in examples]
    return names if len(set(names)) < len(names) else None


# Invisible: zero-width space, word joiner, byte order mark and soft hyphen.
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))
_MEANING = ("<super>", "<sub>", "<fraction>")


def plain_form(text: str) -> str:
    """Return a text without differences of spaces, line ends, case and Unicode normalisation.

    Superscripts, subscripts and fractions are kept, because 2² is not 22.
    """
    if not text.isascii():
        text = "".join(
            c if unicodedata.decomposition(c).startswith(_MEANING) else _normalised(c)
            for c in unicodedata.normalize("NFC", text.translate(_INVISIBLE))
        )
    return unicodedata.normalize("NFC", " ".join(text.casefold().split()))


def _normalised(letter: str) -> str:
    return letter if letter.isascii() else unicodedata.normalize("NFKC", letter)


@dataclass(frozen=True)
class NearDuplicates:
    """Inputs that are in two splits, but for spaces, line ends, case or Unicode normalisation.

    Attributes:
        splits: names of the two splits.
        number: inputs of the second split that the first one has too.
        example: one of them as each split has it.
    """

    splits: tuple[str, str]
    number: int
    example: tuple[str, str]

    def __str__(self) -> str:
        one, other = self.splits
        shown = " and ".join(f"{text[:60]!r}" for text in self.example)
        return (
            f"inputs of the {other} split that are in the {one} split too, but for spaces, case or "
            f"Unicode normalisation: {self.number}, for example {shown}"
        )


def repetitions(splits: Splits) -> list[str]:
    """Return a warning for each scored split that has an input more than once."""
    found = []
    for name in ("search", "sealed"):
        examples: Sequence[Example] = getattr(splits, name)
        counts = Counter(example.input for example in examples)
        more = len(examples) - len(counts)
        if more:
            most = counts.most_common(1)[0][0]
            found.append(
                f"{more} of {len(examples)} {name} examples repeat an input, such as "
                f"{most[:60]!r}: bounds assume independent examples, so keep one of each, or name "
                "what belongs together in `cluster_field`"
            )
    return found


def near_duplicates(splits: Splits) -> list[NearDuplicates]:
    """Return the inputs that two splits share up to `plain_form`, for each pair of splits."""
    forms = {
        name: {plain_form(e.question): e.question for e in examples}
        for name, examples in vars(splits).items()
    }
    found = []
    for one, other in itertools.combinations(forms, 2):
        shared = [form for form in forms[one] if form in forms[other]]
        if shared:
            example = (forms[one][shared[0]], forms[other][shared[0]])
            found.append(NearDuplicates((one, other), len(shared), example))
    return found


def _with_unique_ids(examples: Sequence[Example]) -> list[Example]:
    """Return the examples with unique ids: the id of a repeated input hashes its number too."""
    seen: Counter[str] = Counter()
    unique = []
    for example in examples:
        seen[example.input] += 1
        repeat = seen[example.input]
        name = example.input if repeat == 1 else f"{example.input}\x1f{repeat}"
        unique.append(replace(example, id=_digest(name)))
    return unique


def split_digest(examples: Sequence[Example], metric: Metric) -> str:
    """Return a digest of a split and its metric: 16 hex digits, independent of order."""
    lines = sorted(json.dumps([e.input, e.target, dict(e.extra)], sort_keys=True) for e in examples)
    return _digest("\n".join([metric.name, *lines]))


def make_splits(
    task: str,
    train: Sequence[Example],
    search: Sequence[Example],
    sealed: Sequence[Example],
    seed: int,
) -> Splits:
    """Return the splits in their fixed order.

    Raises:
        ValueError: if a split is empty, or two splits share an input or a cluster.
    """
    named = {"train": train, "search": search, "sealed": sealed}
    owner: dict[tuple[str, str], str] = {}
    for name, examples in named.items():
        if not examples:
            raise ValueError(f"task {task}: the {name} split is empty")
        for example in examples:
            for what, text in (("input", example.question), ("cluster", example.cluster)):
                other = name if text is None else owner.setdefault((what, text), name)
                if text is not None and other != name:
                    raise ValueError(
                        f"task {task}: the {what} {text[:60]!r} is in both the {other} and the "
                        f"{name} split; splits must not overlap"
                    )
    ordered = {
        name: tuple(
            stream(seed, "order", task, name).sample(
                sorted(_with_unique_ids(examples), key=lambda e: e.id), len(examples)
            )
        )
        for name, examples in named.items()
    }
    return Splits(**ordered)
