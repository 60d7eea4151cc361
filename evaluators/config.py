"""The base of every typed part of a sweep file: unknown keys are errors, values don't change."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A part of the sweep file. What it does not know it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
