"""Settings of a judge of two answers: `judge: {kind: endpoint, ...}`, `file` or `model`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kilobit.evaluators.judges.judges import TEMPLATE, EndpointJudge, FileJudge, check_template
from kilobit.search.base_model import BaseModelConfig, Label
from kilobit.search.config_file import load_config
from kilobit.search.settings import Config

_KINDS = ("endpoint", "file", "model")


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
    return load_config(path, JudgeSettings, variants={"judge": _KINDS}).judge
