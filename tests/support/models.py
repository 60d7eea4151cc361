"""Settings of small base models."""

from pathlib import Path

from kilobit.search.base_model import BaseModelConfig


def config(folder: Path, **changes: object) -> BaseModelConfig:
    return BaseModelConfig.model_validate({"regime": "r", "path": str(folder)} | changes)
