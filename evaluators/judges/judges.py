"""Settings of judges, the judge's prompt, and the parser of its verdict.

Each placeholder of the prompt's template is replaced once: braces in a program's output are never
taken for a placeholder. The judge does read the output, though, and an answer may try to persuade
it; swapping the order of the answers does not protect against that.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kilobit.evaluators.judges.preference import Position, Question, Verdict
from kilobit.search.settings import Config

_POSITIONS: dict[str, Position] = {"A": "first", "B": "second", "TIE": "tie"}
_FIELDS = ("{input}", "{first}", "{second}")
_FIELD = re.compile(r"\{(input|first|second)\}")
# The verdict alone on its line, bare or marked up: `B`, `**A**`, `[[tie]]`, `Verdict: A.`
_VERDICT = re.compile(r"(?:verdict|answer)?[\s:*\[(\"'`]*(A|B|TIE)[\s*\])\"'`.!]*", re.IGNORECASE)

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
    """Return the verdict (A, B or tie) on the last line of `text` that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    match = _VERDICT.fullmatch(lines[-1]) if lines else None
    if match is None:
        return Verdict(None, f"the judge gave no verdict, its answer ends in {text[-60:]!r}")
    return Verdict(_POSITIONS[match[1].upper()])


class FileJudge(Config):
    """Verdicts of people, read from a file; see `read_verdicts`."""

    kind: Annotated[Literal["file"], Field(description="verdicts of people in a file")]
    path: Annotated[
        Path,
        Field(
            description="JSON Lines with `id` and `verdict` (win, tie, loss, A or B), relative to "
            "the judge's file"
        ),
    ]


class EndpointJudge(Config):
    """A model behind an OpenAI-compatible endpoint (`POST URL/chat/completions`)."""

    kind: Annotated[Literal["endpoint"], Field(description="an OpenAI-compatible endpoint")]
    url: Annotated[
        str,
        Field(
            pattern=r"^https?://[^\s@?#]+$",
            description="base URL, without `/chat/completions`, e.g. http://localhost:8000/v1",
        ),
    ]
    model: Annotated[str, Field(min_length=1, description="model name that the endpoint expects")]
    key_variable: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
            description="environment variable that holds the API key; null for an open endpoint",
        ),
    ] = None
    template: Annotated[
        str, Field(description="its prompt; contains {input}, {first} and {second}")
    ] = TEMPLATE
    max_tokens: Annotated[int, Field(ge=1, le=100_000, description="longest reply in tokens")] = 16
    tokens_field: Annotated[
        Literal["max_tokens", "max_completion_tokens"],
        Field(description="name of that limit in a request"),
    ] = "max_tokens"
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="null uses the endpoint's default")
    ] = 0.0
    timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="time limit for one reply, in seconds")
    ] = 60.0
    retries: Annotated[
        int, Field(ge=0, le=20, description="tries after time-outs and statuses 408, 409, 429, 5xx")
    ] = 5
    concurrency: Annotated[int, Field(ge=1, le=256, description="requests at the same time")] = 4
    requests_per_minute: Annotated[
        float | None, Field(gt=0, description="limit on requests, including retries")
    ] = None
    cache: Annotated[
        Path | None,
        Field(description="folder for replies, relative to the file that names it; null: no cache"),
    ] = Path("judge-cache")
    dollars_per_million_input: Annotated[
        float | None, Field(ge=0, description="price of input tokens, to show the cost")
    ] = None
    dollars_per_million_output: Annotated[
        float | None, Field(ge=0, description="price of output tokens, to show the cost")
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_template(self.template)
        if (self.dollars_per_million_input is None) != (self.dollars_per_million_output is None):
            raise ValueError("give both prices or neither: the cost needs both")
        return self
