import shlex
from pathlib import Path

import pytest
from pydantic import ValidationError

from kilobit.search.settings import Config, LocalPath, to_copy


class Part(Config):
    """A part of a sweep file as another module declares it."""

    number: float = 1.0
    folder: LocalPath = Path("here")


@pytest.mark.parametrize("name", ["runs/plain", "it's", "two words", 'a"b', "$HOME", "a;b", "[x]"])
def test_a_shell_reads_a_copied_command_as_it_was_meant(name: str) -> None:
    command = to_copy("resume", Path(name), "--take-over", address="head:6379")
    words = ["kilobit", "resume", name, "--take-over", "--address", "head:6379"]
    assert shlex.split(command) == words
    assert to_copy("front", "runs/plain") == "kilobit front runs/plain"


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match=r"(?s)numbre.*Extra inputs are not permitted"):
        Part.model_validate({"numbre": 2.0})


def test_a_value_can_not_be_changed_afterwards() -> None:
    part = Part(number=2.0)
    with pytest.raises(ValidationError, match="frozen"):
        part.number = 3.0  # type: ignore[misc]
    assert part.number == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_is_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Part(number=value)


@pytest.mark.parametrize("url", ["s3://bucket/model", "https://host/model", "file:///model"])
def test_a_url_is_no_local_path(url: str) -> None:
    with pytest.raises(ValidationError, match="a local path is needed, not a URL"):
        Part.model_validate({"folder": url})


@pytest.mark.parametrize(
    "path", ["", "models/tiny", "/models/a:b", "../x", "org:model/x", "models/s3:/x"]
)
def test_a_local_path_is_left_as_it_is(path: str) -> None:
    assert Part.model_validate({"folder": path}).folder == Path(path)
