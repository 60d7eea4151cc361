r"""Settings of judges, the judge's prompt, and the parser of its verdict.

Each placeholder of the prompt's template is replaced once: braces in a program's output are never
taken for a placeholder. The judge does read the output, though, and an answer may try to persuade
it; swapping the order of the answers does not protect against that.

A reply is read after its thinking (`</think>`, `[/THINK]` and the like), whatever its case, marks
of emphasis and width of letters. A verdict is A, B or tie, and these places state one:

- a mark anywhere: `[[A]]`, `\boxed{A}`, `<verdict>A</verdict>`, `"verdict": "A"` in JSON;
- a line that names what it states: `Verdict: A`, `My final answer is (A).`, `The winner is B.`;
- the last line, where that is a verdict alone or in a sentence: `A`, `Answer B`, `I prefer B.`,
  `A is better.`, `It's a tie.`; or the first line, if it is a verdict alone and no later line
  names another.

A reason may follow on the line, unless it names another verdict. A reply that states none, or two
that differ, is unreadable.
"""

import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kilobit.evaluators.judges.preference import Position, Question, Verdict
from kilobit.search.base_model import BaseModelConfig, Label
from kilobit.search.config_file import load_config
from kilobit.search.settings import Config

_POSITIONS: dict[str, Position] = {"A": "first", "B": "second", "TIE": "tie"}
_FIELDS = ("{input}", "{first}", "{second}")
_FIELD = re.compile(r"\{(input|first|second)\}")

_NOUN = r"(?:answer|assistant|response|option|model|output|candidate|reply|choice|verdict)"
_LABEL = rf"(?:(?:the )?{_NOUN}[ _-]*)?[(\[{{\"'【「]*(A|B|(?:an? )?(?:tie|draw))\b[)\]}}\"'】」]*"
_KEY = (
    r"(?:verdict|answer|winner|choice|decision|judge?ment|preference|conclusion|result|pick|vote|"
    rf"selection|(?:better|best|preferred|superior|stronger|winning)(?:[ _]one)?)(?:[ _]{_NOUN})?"
)
# What a line may name before its verdict; any word would do, were it not for `worse answer: A`.
_NAMING = (
    r"(?:(?:the|my|our|final|overall|better|best|preferred|correct|winning|chosen)[ _])*" + _KEY
)
_SEPARATOR = r" ?(?:[:=]|->|→|is:?|goes to|would be|[-\u2013\u2014] )+ ?"
_BEFORE = (
    r"(?:(?:so|therefore|thus|hence|overall|finally|ultimately|in (?:conclusion|summary|the end)|"
    r"in my (?:opinion|view)|to conclude|on balance|all in all)[,:]? )?"
    r"(?:based on [^,.]{1,60}, )?(?:i (?:think|believe|find|conclude|would say)(?: that)? )?"
)
_BETTER = r"(?:better|best|superior|preferred|preferable|stronger|the winner|my (?:choice|pick))"
_ADVERB = r"(?:clearly |slightly |much |marginally |overall |definitely |by far )?"
_SENTENCES = (
    rf"{_LABEL}(?: wins|(?: is|'s| was| gave| gives| provide[sd]?| offer(?:s|ed)| has) {_ADVERB}"
    rf"(?:the )?{_BETTER}(?: (?:one|{_NOUN}))?(?: overall)?)",
    r"(?:i(?:'d| would| will|'ll)? )?(?:prefer|choose|pick|select|favou?r|go with|vote for|say):? "
    rf"{_LABEL}",
    rf"(?:it|this|that)(?:'s| is) {_LABEL}",
    r"(?:they|both|the two)(?: answers| responses)?(?: are)? (tied?)\b",
    rf"{_LABEL}(?=,? (?:because|since|as it)\b)",
)
_REASON = (
    r"(?: between A and B)?(?:[\s.!]*$|\s*[,;(\u2013\u2014].*|[.!] .*| - .*|"
    r",? (?:because|since|as it|by)\b.*)"
)
_ALONE = re.compile(rf"{_LABEL}[\s.!]*", re.IGNORECASE)
_LONGEST_LINE = 1000
_BARE = re.compile(r"\W*(A|B|tie|draw)\W*", re.IGNORECASE)
_SENTENCE = re.compile(rf"{_BEFORE}(?:{'|'.join(_SENTENCES)})(?={_REASON})", re.IGNORECASE)
_NAMED = re.compile(
    rf"{_BEFORE}(?:{_NAMING}{_SEPARATOR})+(?:that )?"
    rf"(?:{_LABEL}|{'|'.join(_SENTENCES)})(?={_REASON})",
    re.IGNORECASE,
)
_MARKS = re.compile(
    rf"\[\[\s*{_LABEL}\s*\]\]"
    rf"|\\boxed\s*\{{\s*(?:\\\w+\s*\{{)?\s*{_LABEL}\s*\}}"
    rf"|<{_NAMING}>\s*{_LABEL}\s*</"
    rf"|[\"']{_NAMING}[\"']\s*:\s*[\"']{_LABEL}(?<=[\"'])\s*[,}}\n]",
    re.IGNORECASE,
)
_THINKING = r"(?:\w+:)?(?:think(?:ing)?|thought|reason(?:ing)?|reflection|analysis|scratchpad)"
_END_OF_THINKING = re.compile(
    rf"[<\[◁]/{_THINKING}[>\]▷]|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
_IN_THINKING = re.compile(rf"[<\[◁]{_THINKING}[>\]▷]", re.IGNORECASE)
# Special tokens of a template, emphasis, headings and quotes.
_DECORATION = re.compile(
    r"<\|[^|<>]*\|>|</?(?:b|strong|em|i|u|p|br|s)\s*/?>|[*`$]|(?<!\w)_+|_+(?!\w)|^(?:[#>\s•-]+|\d+[.)]\s)+",
    re.MULTILINE | re.IGNORECASE,
)

TEMPLATE = """\
Two assistants answered the same request. Decide which answer serves the person who asked better: \
it does what was asked, what it says is right, and it is no longer than it has to be. The order in \
which the answers are shown means nothing.

[Request]
{input}

[Answer A]
{first}

[Answer B]
{second}

[End]
Reply with one word: A if answer A is better, B if answer B is better, tie if neither is.
"""


def check_template(template: str) -> None:
    """Check that a template contains each placeholder exactly once.

    Raises:
        ValueError: naming a placeholder that is missing or repeated.
    """
    bad = [field for field in _FIELDS if template.count(field) != 1]
    if bad:
        raise ValueError(f"`template` must contain {bad[0]} once")


def fill(template: str, question: Question) -> str:
    """Return the template with the question's texts filled in."""
    return _FIELD.sub(lambda match: str(getattr(question, match[1])), template)


def read_verdict(text: str) -> Verdict:
    """Return the verdict that a reply states; see the module's docstring."""
    said = _END_OF_THINKING.split(unicodedata.normalize("NFKC", text))[-1]
    said = said.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})
    said = "".join(c for c in said if unicodedata.category(c) not in ("So", "Cf", "Mn"))
    if _IN_THINKING.search(said):
        return Verdict(None, f"the judge's reply ends in its thinking: {text[-60:]!r}")
    said = _DECORATION.sub("", said)
    lines = [line.strip()[:_LONGEST_LINE] for line in said.split("\n") if line.strip()] or [""]
    found = [_label(match) for match in _MARKS.finditer(said)]
    for line in lines:
        found += _stated(_NAMED.match(line), line)
    found += _stated(_SENTENCE.match(lines[-1]), lines[-1])
    if last := _ALONE.fullmatch(lines[-1]):
        found += [_label(match) for match in (last, *map(_BARE.fullmatch, lines)) if match]
    first = _ALONE.fullmatch(lines[0])
    if not found and first and not _others("\n".join(lines[1:]), _label(first)):
        found = [_label(first)]
    if len(set(found)) != 1:
        what = "two verdicts" if found else "no verdict"
        return Verdict(None, f"the judge gave {what}, its answer ends in {text[-60:]!r}")
    return Verdict(_POSITIONS[found[0]])


def _label(match: re.Match[str]) -> str:
    """Return the verdict of a match: A, B or TIE."""
    label = next(group for group in match.groups() if group).upper()
    return label if label in _POSITIONS else "TIE"


def _stated(match: re.Match[str] | None, line: str) -> list[str]:
    """Return the verdict at the beginning of a line, none if the rest names another."""
    if match is None or _others(line[match.end() :], _label(match)):
        return []
    return [_label(match)]


def _others(text: str, label: str) -> bool:
    """Return whether a text names another verdict than `label`."""
    if label == "TIE":
        text = text.removeprefix(" between A and B")
    return any(name != label for name in re.findall(r"\b(?:[AB]|TIE)\b", text))


class FileJudge(Config):
    """Verdicts of people, read from a file; see `read_verdicts`."""

    kind: Literal["file"]
    """verdicts of people in a file"""
    path: Path
    """JSON Lines with `id` and `verdict` (win, tie, loss, A or B), relative to the judge's file"""


class EndpointJudge(Config):
    """A model behind an OpenAI-compatible endpoint (`POST URL/chat/completions`)."""

    kind: Literal["endpoint"]
    """an OpenAI-compatible endpoint"""
    url: str = Field(pattern=r"^https?://[^\s@?#]+$")
    """base URL, without `/chat/completions`, e.g. http://localhost:8000/v1"""
    model: str = Field(min_length=1)
    """model name that the endpoint expects"""
    key_variable: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """environment variable that holds the API key; null for an open endpoint"""
    template: str = TEMPLATE
    """its prompt; contains {input}, {first} and {second}"""
    max_tokens: int = Field(default=16, ge=1, le=100_000)
    """longest reply in tokens"""
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """name of that limit in a request"""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """null uses the endpoint's default"""
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """time limit for one reply, in seconds"""
    retries: int = Field(default=5, ge=0, le=20)
    """tries after time-outs and statuses 408, 409, 429, 5xx"""
    concurrency: int = Field(default=4, ge=1, le=256)
    """requests at the same time"""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """limit on requests, including retries"""
    cache: Path | None = Path("judge-cache")
    """folder for replies, relative to the file that names it; null: no cache"""
    dollars_per_million_input: float | None = Field(default=None, ge=0)
    """price of input tokens, to show the cost"""
    dollars_per_million_output: float | None = Field(default=None, ge=0)
    """price of output tokens, to show the cost"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_template(self.template)
        if (self.dollars_per_million_input is None) != (self.dollars_per_million_output is None):
            raise ValueError("give both prices or neither: the cost needs both")
        return self


class JudgeModel(BaseModelConfig):
    """The base model of a judge; its regime is only a label."""

    regime: Label = "judge"
    """a label"""


class ModelJudge(Config):
    """A judge that is a model on this machine."""

    kind: Literal["model"]
    """a model on this machine"""
    model: JudgeModel
    """as in `base_models` of a sweep file"""
    read: Literal["logprobs", "text"] = "logprobs"
    """`logprobs`: the label that is likelier as the next text; `text`: what the model writes,
    greedily"""
    template: str = TEMPLATE
    """the judge's prompt; contains {input}, {first} and {second}"""
    chat: bool = False
    """ask as a user's turn in the model's chat template"""
    labels: tuple[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]] = (
        "A",
        "B",
    )
    """for `logprobs`: labels of the first and the second answer, of equally many tokens"""
    tie_margin: float = Field(default=0.0, ge=0)
    """for `logprobs`: log-probabilities that differ by no more than this are a tie"""
    max_new_tokens: int = Field(default=16, ge=1, le=100_000)
    """for `text`: longest reply in tokens"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_template(self.template)
        others = {"logprobs": ("max_new_tokens",), "text": ("labels", "tie_margin")}[self.read]
        ignored = [name for name in others if name in self.model_fields_set]
        if ignored:
            raise ValueError(f"`{ignored[0]}` has no effect with `read: {self.read}`")
        return self


AnyJudge = EndpointJudge | FileJudge | ModelJudge


class JudgeSettings(Config):
    """The settings file of a judge."""

    judge: AnyJudge = Field(discriminator="kind")
    """compares answers"""


def load_judge(path: Path) -> AnyJudge:
    """Return the judge that a YAML file configures.

    Raises:
        ConfigError: naming file and line.
    """
    return load_config(path, JudgeSettings, variants={"judge": ("endpoint", "file", "model")}).judge
