"""Settings of every task on texts: label, templates, and the end of an answer."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kilobit.search.settings import Config

# Types of fields for which each task sets its own default.
TaskName = Annotated[str, Field(min_length=1, description="label of the task in tables")]
Question = Annotated[str, Field(description="text before an answer; contains {input}")]
Answer = Annotated[str, Field(description="an answer in a demonstration; contains {target}")]
Stop = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(description="strings that end a generation"),
]
LongestAnswer = Annotated[int, Field(ge=1, le=100_000, description="longest generation in tokens")]


class TextTask(Config):
    """Label, templates, stop strings and limits of a task on texts."""

    name: TaskName
    question: Question = "{input}\n"
    answer: Answer = "{target}\n"
    stop: Stop = ("\n",)
    max_new_tokens: LongestAnswer = 64
    seed: int = Field(default=0, ge=0)
    """fixes the order of the examples"""
    balance: bool = True
    """where a split has four examples or more for each target that differs, order it so that its
    first examples have each target as often as the whole split"""
    cluster_field: str | None = None
    """key of the passage, document or user: examples with the same value stay in one split, and
    intervals and bounds take them together"""
    near_duplicates: Literal["count", "error"] = "count"
    """inputs in two splits that differ only in spaces, line ends, case or Unicode normalisation:
    count them in the dry run, or refuse the task"""

    @model_validator(mode="after")
    def _templates(self) -> Self:
        if self.question.count("{input}") != 1:
            raise ValueError("`question` must contain {input} once")
        if self.answer.count("{target}") != 1:
            raise ValueError("`answer` must contain {target} once")
        return self
