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

    regime: Annotated[Label, Field(description="a label")] = "judge"


class ModelJudge(Config):
    """A judge that is a model on this machine."""

    kind: Annotated[Literal["model"], Field(description="a model on this machine")]
    model: Annotated[JudgeModel, Field(description="as in `base_models` of a sweep file")]
    read: Annotated[
        Literal["logprobs", "text"],
        Field(
            description="`logprobs`: the label that is likelier as the next text; `text`: what the "
            "model writes, greedily"
        ),
    ] = "logprobs"
    template: Annotated[
        str, Field(description="the judge's prompt; contains {input}, {first} and {second}")
    ] = TEMPLATE
    chat: Annotated[
        bool, Field(description="ask as a user's turn in the model's chat template")
    ] = False
    labels: Annotated[
        tuple[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]],
        Field(
            description="for `logprobs`: labels of the first and the second answer, of equally "
            "many tokens"
        ),
    ] = ("A", "B")
    tie_margin: Annotated[
        float,
        Field(
            ge=0,
            description="for `logprobs`: log-probabilities that differ by no more than this are a "
            "tie",
        ),
    ] = 0.0
    max_new_tokens: Annotated[
        int, Field(ge=1, le=100_000, description="for `text`: longest reply in tokens")
    ] = 16

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

    judge: Annotated[AnyJudge, Field(discriminator="kind", description="compares answers")]


def load_judge(path: Path) -> AnyJudge:
    """Return the judge that a YAML file configures.

    Raises:
        ConfigError: naming file and line.
    """
    return load_config(path, JudgeSettings, variants={"judge": _KINDS}).judge
