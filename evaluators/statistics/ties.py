"""Strength of one program against another, from wins, ties and losses over the same prompts.

There are five treatments of ties, each a number in [0, 1] where 0.5 means equally good. With the
shares w, t, l of wins, ties and losses (w + t + l = 1) they are, for one pair of programs,

- `half_points`: w + t / 2. The first program's points if a tie is half a point; no model.
- `drop_ties`: w / (w + l). The share of wins among the prompts that were decided.
- `thurstone`: the judge sees a difference D ~ N(d, 1) and calls a tie within [-e, e] (law of
  comparative judgement, Thurstone 1927, with the tie band of Glenn and David 1960), so
  w = Phi(d - e) and l = Phi(-d - e). The number is Phi(d), d = (z(w) - z(l)) / 2 with z the inverse
  of Phi: the probability that D > 0, that is, of a preference by a judge without a band.
- `rao_kupper`: the same with a logistic D and the band [-log(theta), log(theta)] (Rao and Kupper
  1967): w = p / (p + theta q), l = q / (q + theta p). The number is p / (p + q).
- `davidson`: w : t : l = p : nu sqrt(p q) : q (Davidson 1970). The number is p / (p + q), for one
  pair equal to `drop_ties` by construction; it adds the tie parameter nu.

Each model has as many parameters as there are free shares, so these formulas are its maximum
likelihood estimates. If every prompt is a tie, the value is not a number (NaN), because ties alone
do not favour either program; `half_points` is 0.5 then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilobit.search.streams import stream_seed

Floats = NDArray[np.float64]
# Maps wins, ties and losses, shape [..., 3], to strengths and tie parameters, each of shape [...].
Model = Callable[[NDArray[Any]], tuple[Floats, Floats]]

_LEVEL = 0.95
_NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Strength:
    """Strength of the first program under one model.

    Attributes:
        model: its name in `MODELS`.
        strength: in [0, 1]; None if every prompt is a tie.
        lower: lower end of the 95 % interval; None if the resamples do not vary, because the
            interval would then mean nothing.
        upper: upper end of it, likewise.
        tie: the tie parameter: e of `thurstone`, theta of `rao_kupper`, nu of `davidson`; None
            if the model has none, or if wins or losses never occurred.
    """

    model: str
    strength: float | None
    lower: float | None
    upper: float | None
    tie: float | None


def _shares(counts: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Return the shares of wins, ties and losses, each of shape [...]."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(axis=-1)
    return counts[..., 0] / total, counts[..., 1] / total, counts[..., 2] / total


def _nothing(like: Floats) -> Floats:
    return np.full_like(like, np.nan)


def half_points(counts: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return w + t / 2, without a tie parameter."""
    w, t, _ = _shares(counts)
    return w + t / 2, _nothing(w)


def drop_ties(counts: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return w / (w + l), without a tie parameter."""
    w, _, lost = _shares(counts)
    return w / (w + lost), _nothing(w)


def thurstone(counts: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return Phi((z(w) - z(l)) / 2) and the half width of the band, -(z(w) + z(l)) / 2."""
    from scipy.special import ndtr, ndtri

    w, _, lost = _shares(counts)
    return ndtr((ndtri(w) - ndtri(lost)) / 2), -(ndtri(w) + ndtri(lost)) / 2


def rao_kupper(counts: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return p / (p + q) and theta, which is 1 where there are no ties."""
    from scipy.special import expit, logit

    w, _, lost = _shares(counts)
    return expit((logit(w) - logit(lost)) / 2), np.exp(-(logit(w) + logit(lost)) / 2)


def davidson(counts: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return p / (p + q) and nu, which is 0 where there are no ties."""
    w, t, lost = _shares(counts)
    return w / (w + lost), t / np.sqrt(w * lost)


MODELS: dict[str, Model] = {
    "half_points": half_points,
    "drop_ties": drop_ties,
    "thurstone": thurstone,
    "rao_kupper": rao_kupper,
    "davidson": davidson,
}


def strengths(wins: int, ties: int, losses: int, seed: int = 0) -> list[Strength]:
    """Return the strength under every model with percentile bootstrap intervals over prompts.

    Prompts are resampled with replacement, so the counts of a resample are multinomial. A resample
    of ties alone is compatible with any strength: it counts as 0 for the lower and as 1 for the
    upper bound.

    Args:
        wins: prompts on which the first program was preferred.
        ties: prompts without a preference.
        losses: prompts on which the second one was preferred.
        seed: of the resamples.

    Raises:
        ValueError: if there is no prompt.
    """
    counts = np.array([wins, ties, losses])
    total = int(counts.sum())
    if not total:
        raise ValueError("no verdicts: a comparison needs at least one prompt that was judged")
    rng = np.random.default_rng(stream_seed(seed, "preference", "bootstrap"))
    resamples = rng.multinomial(total, counts / total, size=_NUM_RESAMPLES)
    # Where the counts do not determine a value the formulas yield 0/0 or infinities.
    with np.errstate(divide="ignore", invalid="ignore"):
        return [_strength(name, model, counts, resamples) for name, model in MODELS.items()]


def _strength(
    name: str, model: Model, counts: NDArray[np.int64], resamples: NDArray[np.int64]
) -> Strength:
    strength, tie = model(counts)
    draws, _ = model(resamples)
    tail = (1 - _LEVEL) / 2
    lower = float(np.quantile(np.where(np.isnan(draws), 0.0, draws), tail))
    upper = float(np.quantile(np.where(np.isnan(draws), 1.0, draws), 1 - tail))
    varies = bool(np.isfinite(strength)) and lower < upper
    return Strength(
        name,
        float(strength) if np.isfinite(strength) else None,
        lower if varies else None,
        upper if varies else None,
        float(tie) if np.isfinite(tie) else None,
    )
