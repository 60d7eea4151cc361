"""Task complexity from programs: base models compared, and what the sealed split certifies.

The same task under several base models: lengths side by side, and their ratios.

Every length L(A) of a program found under A is an upper bound of the complexity C(T_δ|A), and no
complexity is below 0. So C(T_δ|A) - C(T_δ|B), the information about the task at this score that is
in B and not in A, is at most L(A): A and those bits suffice for the score. L(A) - L(B) and
L(A) / L(B) compare the programs that the search found. They bound the difference and the ratio of
complexities neither from above nor from below, because a shorter program may exist under either.

Certified complexity: proven by the sealed split, over seeds and between base models.

Every length is an upper bound of the complexity. A seed in which no program was certified has no
value; it is left out of means, and reported as missing.

The table of results: for each task, base model and target the shortest proven program, and how many
times as many bits the usual ways to adapt a model take, as `Result` says. Of those the smallest
that reaches the target on the search split counts, proven or not: so a factor is rather too small
than too large.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from kilobit.search.front.pareto import complexity
from kilobit.search.front.points import FrontPoint
from kilobit.search.settings import Ruler

# Scores at which curves are compared besides the targets.
_STEPS = tuple(step / 10 for step in range(1, 10))
RULERS: tuple[Ruler, ...] = ("program", "payload", "net")
LEVEL = 0.95
Baseline = Literal["lora", "peft", "full", "random"]
BASELINES: tuple[Baseline, ...] = ("lora", "peft", "full", "random")
_PLAIN_BITS = 16
_OF_A_RESULT = ("run", "candidate", "score", "program_bits", "payload_bits", "net_bits")
# A t-interval of two values is too wide to be useful; the values are shown instead.
_FEWEST_FOR_T = 3


@dataclass(frozen=True)
class Lengths:
    """The shortest programs of one base model at one score.

    Attributes:
        found: bits of the shortest program that reaches the score on the search split, or None.
        certified: bits of the shortest with a lower bound on the sealed split that reaches it, or
            None.
    """

    found: int | None
    certified: int | None


@dataclass(frozen=True)
class Collapse:
    """The difference of the shortest programs at one score between two base models.

    Attributes:
        before: the base model that comes first.
        after: the base model that comes second.
        target: the score.
        factor: bits before over bits after; programs of 0 bits or less count as 1 bit.
        information: most bits of information about the task that `after` can have and `before`
            not: the length of the program before.
        certified: whether both programs were certified at this score.
        factors: the factor by each length for which both base models have one, each between the
            shortest programs by that length; certified ones if `certified`.
    """

    before: str
    after: str
    target: float
    factor: float
    information: int
    certified: bool
    factors: Mapping[Ruler, float]


def lengths(points: Sequence[FrontPoint], model: str, target: float) -> Lengths:
    """Return the shortest lengths of one base model at a score; the points are of one task."""
    own = [point for point in points if point.model == model]
    return Lengths(complexity(own, target), certified_complexity(own, target))


def rows_of(
    points: Sequence[FrontPoint], models: Sequence[str], targets: Iterable[float]
) -> list[tuple[float, list[Lengths]]]:
    """Return the targets, and other scores that a base model reaches, with the lengths of each."""
    scores = sorted({*targets, *_STEPS})
    rows = [(score, [lengths(points, model, score) for model in models]) for score in scores]
    wanted = set(targets)
    return [
        (score, each)
        for score, each in rows
        if score in wanted or any(one.found is not None for one in each)
    ]


def collapses(points: Sequence[FrontPoint], models: Sequence[str], target: float) -> list[Collapse]:
    """Return the collapse of each pair of base models, in order, that both reach `target`.

    Certified lengths are compared where both have one, else those found on the search split.
    """
    found = []
    for position, before in enumerate(models):
        one = [point for point in points if point.model == before]
        for after in models[position + 1 :]:
            other = [point for point in points if point.model == after]
            certified = all(certified_complexity(own, target) is not None for own in (one, other))
            pairs = {length: _pair(one, other, target, length, certified) for length in RULERS}
            factors = {
                length: max(1, pair[0]) / max(1, pair[1])
                for length, pair in pairs.items()
                if pair is not None
            }
            if one and one[0].length in factors and one[0].length == other[0].length:
                length = one[0].length
                above, _ = pairs[length] or (0, 0)
                found.append(
                    Collapse(
                        before, after, target, factors[length], max(0, above), certified, factors
                    )
                )
    return found


def _pair(
    one: Sequence[FrontPoint],
    other: Sequence[FrontPoint],
    target: float,
    length: Ruler,
    certified: bool,
) -> tuple[int, int] | None:
    """Return the shortest lengths of two base models at a score, None if one has none."""
    read = certified_complexity if certified else complexity
    both = [
        read([point for p in own if (point := p.by(length)) is not None], target)
        for own in (one, other)
    ]
    return None if both[0] is None or both[1] is None else (both[0], both[1])


def certified_complexity(points: Iterable[FrontPoint], target: float) -> int | None:
    """Return the bits of the shortest program with a lower bound on the sealed split >= target.

    None if there is none. The bounds hold for all programs at once, so the shortest may be taken.
    """
    return min((p.bits for p in proven(points, target)), default=None)


def proven(points: Iterable[FrontPoint], target: float) -> list[FrontPoint]:
    """Return the points with a lower bound on the sealed split of at least `target`."""
    return [point for point in points if _lower(point) >= target]


def best_lower(points: Iterable[FrontPoint]) -> float | None:
    """Return the best lower bound on the sealed split, or None without any."""
    best = max(map(_lower, points), default=-1.0)
    return best if best >= 0 else None


def _lower(point: FrontPoint) -> float:
    certificate = point.certificate
    return -1.0 if certificate is None or certificate.lower is None else certificate.lower


@dataclass(frozen=True)
class AdapterSize:
    """The size of a LoRA adapter as others count it.

    Attributes:
        rank: of its factors.
        numbers: how many it has.
        file_bytes: at least the bytes of PEFT's adapter_model.safetensors.
    """

    rank: int
    numbers: int
    file_bytes: int


@dataclass(frozen=True)
class Result:
    """A row of the table of results.

    Attributes:
        bare_score: score of the bare question on the search split at its last rung; None if it was
            not scored.
        bare_num_examples: examples of that score; a search may stop the bare question early.
        reached: a program reaches the target on the search split, verified or not.
        proof: the sealed split bears out that the program reaches the target (`certified`), or its
            files gave that score on the search split (`verified`); None if there is no such
            program.
        point: the shortest certified program, else the shortest verified one.
        length: the length that is the shortest, and the denominator of the factors.
        baselines: bits by which the base model reaches the target otherwise. `lora`: 16 bits for
            each number of the smallest LoRA of rank 1 that reaches it. `peft`: 8 times the bytes
            that PEFT's file of the smallest LoRA of any rank that reaches it has at least.
            `full`: 16 bits for each parameter; this is no measurement. `random`: the shortest
            program of a random model that reaches it. None where nothing reaches it.
        factors: `baselines` over the bits of the program; a program of 0 bits or less counts as 1.
    """

    task: str
    model: str
    regime: str
    bare_score: float | None
    bare_num_examples: int | None
    target: float
    reached: bool
    proof: Literal["certified", "verified"] | None
    point: FrontPoint | None
    length: Ruler
    baselines: Mapping[Baseline, int | None]

    @property
    def factors(self) -> dict[Baseline, float | None]:
        """Return how many times as many bits each baseline takes as the program."""
        bits = None if self.point is None else max(1, self.point.bits)
        return {
            name: None if found is None or bits is None else found / bits
            for name, found in self.baselines.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this row, with the facts of its program."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        del own["point"]
        about = {name: getattr(self.point, name, None) for name in _OF_A_RESULT}
        bits = about["program_bits"]
        about["num_bytes"] = None if bits is None else bits // 8
        return own | about | {"factors": self.factors}


def results(
    points: Sequence[FrontPoint],
    targets: Sequence[float],
    adapters: Mapping[tuple[str, str], AdapterSize],
    num_parameters: Mapping[str, int],
    random: Collection[str],
    asked: Mapping[str, tuple[int, float]],
) -> list[Result]:
    """Return the rows of the table of results of one task, each base model in turn.

    Args:
        points: completed programs of the task, of one run or several, all by one length.
        targets: scores to reach.
        adapters: sizes of LoRA adapters by run and candidate, at least of those that reach a
            target.
        num_parameters: of base models, where they are known.
        random: labels of the base models whose weights are random.
        asked: examples and score of the bare question by base model, see `bare_scores`.
    """
    rows = []
    from_nothing = [point for point in points if point.model in random]
    for model in dict.fromkeys(point.model for point in points):
        own = [point for point in points if point.model == model]
        num_examples, bare = asked.get(model, (None, None))
        whole = num_parameters.get(model)
        for target in targets:
            reach = [point for point in own if point.score >= target]
            keys = [(point.run, point.candidate) for point in reach]
            sizes = [adapters[key] for key in keys if key in adapters]
            plain = [_PLAIN_BITS * size.numbers for size in sizes if size.rank == 1]
            baselines: dict[Baseline, int | None] = {
                "lora": min(plain, default=None),
                "peft": min((8 * size.file_bytes for size in sizes), default=None),
                "full": None if whole is None else _PLAIN_BITS * whole,
                "random": None if model in random else complexity(from_nothing, target),
            }
            best, proof = _shortest(own, target)
            about = (points[0].task, model, own[0].regime, bare, num_examples, target)
            rows.append(
                Result(*about, bool(reach), proof, best, own[0].length, baselines=baselines)
            )
    return rows


def _shortest(
    points: Sequence[FrontPoint], target: float
) -> tuple[FrontPoint | None, Literal["certified", "verified"] | None]:
    certified = proven(points, target)
    if certified:
        return min(certified, key=lambda point: point.bits), "certified"
    verified = [point for point in points if point.verified and point.score >= target]
    if verified:
        return min(verified, key=lambda point: point.bits), "verified"
    return None, None


@dataclass(frozen=True)
class Spread:
    """The mean of a few values and its interval.

    Attributes:
        values: one per seed.
        mean: their mean, None without any value.
        low: lower end of the interval, None without any value.
        high: upper end of the interval, None without any value.
        method: `t-interval` of level 0.95, or `min - max` of fewer than three values.
    """

    values: tuple[float, ...]
    mean: float | None
    low: float | None
    high: float | None
    method: str


def spread(values: Sequence[float]) -> Spread:
    """Return the mean of `values` with its interval over seeds.

    Raises:
        ValueError: if a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        raise ValueError(f"values must be finite, found {list(values)}")
    n, found = len(values), tuple(values)
    if not n:
        return Spread(found, None, None, None, "min - max")
    mean = math.fsum(values) / n
    if n < _FEWEST_FOR_T:
        return Spread(found, mean, min(values), max(values), "min - max")
    from scipy.special import stdtrit

    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * math.sqrt(variance / n)
    return Spread(found, mean, mean - half, mean + half, "t-interval")


def log2_bits(bits: Mapping[int, int | None]) -> dict[int, float]:
    """Return log2 of the bits of each seed that has a value; 0 bits count as 1."""
    return {seed: math.log2(max(1, found)) for seed, found in bits.items() if found is not None}


def log2_ratios(
    these: Mapping[int, int | None], those: Mapping[int, int | None]
) -> dict[int, float]:
    """Return log2 of the ratio of both, seed by seed, for seeds that have both."""
    above, below = log2_bits(these), log2_bits(those)
    return {seed: above[seed] - below[seed] for seed in above if seed in below}
