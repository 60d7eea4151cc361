import pytest

from kilobit.evaluators.judges.judges import TEMPLATE, EndpointJudge, fill, read_verdict
from kilobit.evaluators.judges.preference import (
    Position,
    Question,
)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("A", "first"),
        (" b.\n", "second"),
        ("Tie", "tie"),
        ("They differ.\nVerdict: **B**\n\n", "second"),
        ("[[A]]", "first"),
        ("Answer B", "second"),
        ("", None),
        ("A or B", None),
        ("A better one is missing", None),
        ("B\nbut A is nice too", None),
    ],
)
def test_a_verdict_is_the_last_line_or_there_is_none(text: str, position: Position | None) -> None:
    found = read_verdict(text)
    assert found.position == position
    assert (found.reason is None) == (position is not None)


def test_what_a_program_wrote_is_no_placeholder() -> None:
    text = fill(TEMPLATE, Question("say {second}", "{second}", "{input}"))
    assert "[Request]\nsay {second}\n" in text
    assert "[Answer A]\n{second}\n" in text
    assert "[Answer B]\n{input}\n" in text


def test_settings_of_a_judge_are_checked() -> None:
    settings = {"kind": "endpoint", "url": "http://h/v1", "model": "m"}
    assert EndpointJudge.model_validate(settings).template == TEMPLATE
    for change, message in [
        ({"template": "{input} {first}"}, "`template` must contain {second} once"),
        ({"dollars_per_million_input": 1.0}, "give both prices or neither"),
        ({"url": "http://user:secret@h/v1"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"key": "secret"}, "Extra inputs"),
    ]:
        with pytest.raises(ValueError, match=message.replace("{", r"\{")):
            EndpointJudge.model_validate(settings | change)
