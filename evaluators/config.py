"""Base class of every typed part of a sweep file: unknown keys are errors, values don't change."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from evaluators.storage import Place, place


def _place(value: Any) -> Place:
    if not isinstance(value, str | Place):
        raise ValueError("Input is not a valid path")
    return place(value)


def _local(path: Path) -> Path:
    if path.parts[:1] and path.parts[0].endswith(":"):
        raise ValueError(
            "a local path is needed, not a URL: download it first, or use `hub` for a hub model"
        )
    return path


# A folder on this machine or, given as a URL, on an object store.
PlaceField = Annotated[
    Place,
    PlainValidator(_place),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "format": "path"}),
]
LocalPath = Annotated[Path, AfterValidator(_local)]


class Config(BaseModel):
    """A part of the sweep file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
