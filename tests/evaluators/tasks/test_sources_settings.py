from typing import Any

import pytest

from kilobit.evaluators.tasks.sources import TextTask


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "Q:"}, "`question` must contain {input} once"),
        ({"question": "{input}{input}"}, "`question` must contain {input} once"),
        ({"answer": "A:"}, "`answer` must contain {target} once"),
        ({"stop": [""]}, "at least 1 character"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"name": ""}, "at least 1 character"),
        ({"temperature": 1}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_task_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextTask.model_validate({"name": "t"} | changes)


def test_a_task_asks_by_lines_unless_it_says_otherwise() -> None:
    task = TextTask(name="t")
    assert (task.question, task.answer, task.stop) == ("{input}\n", "{target}\n", ("\n",))
