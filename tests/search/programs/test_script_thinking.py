"""The statements of a program that thinks, run with a model that says what it is told to."""

import io
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kilobit.search.programs.recipe import Recipe, ThinkingPart
from kilobit.search.programs.script import readable_script, script

THINKING = ThinkingPart(mark="</think>", close="</think>\n\n", tokens=30)
RECIPE = Recipe(
    question="{input}?",
    batch_size=2,
    max_new_tokens=6,
    stop=("\n",),
    chat=True,
    template={"enable_thinking": True},
    opening="<think>\n",
    thinking=THINKING,
)


class Ids(list[Any]):
    """Rows of texts in place of tokens; a letter is a token."""

    shape = (0, 0)


class Said:
    """Tokenizer and model at once: the text that follows a question is given."""

    def __init__(self, follow: dict[str, str]) -> None:
        self.follow, self.asked = follow, list[tuple[str, int, Any]]()

    def from_pretrained(self, *_: Any, **__: Any) -> "Said":
        return self

    def float(self) -> "Said":
        return self

    def apply_chat_template(self, turns: Any, enable_thinking: bool, **_: Any) -> str:
        assert enable_thinking
        return f"[{turns[0]['content']}]"

    def __call__(self, texts: list[str], **options: Any) -> SimpleNamespace:
        assert options["add_special_tokens"] is False
        assert len(texts) <= RECIPE.batch_size
        return SimpleNamespace(input_ids=Ids(texts), attention_mask=None)

    def generate(
        self, input_ids: Ids, max_new_tokens: int, stop_strings: Any, **_: Any
    ) -> list[str]:
        found = []
        for text in input_ids:
            self.asked.append((text, max_new_tokens, stop_strings))
            said = self.follow[text][:max_new_tokens]
            ends = [said.find(stop) + len(stop) for stop in stop_strings or () if stop in said]
            found.append(said[: min(ends, default=len(said))])
        return found

    def decode(self, row: str, **_: Any) -> str:
        return row


def printed(recipe: Recipe, follow: dict[str, str], inputs: list[str]) -> list[str]:
    said, transformers = Said(follow), ModuleType("transformers")
    transformers.__dict__.update(AutoTokenizer=said, AutoModelForCausalLM=said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "transformers", transformers)
        patch.setattr(sys, "argv", ["program.py", "model"])
        patch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(i) + "\n" for i in inputs)))
        patch.setattr(sys, "stdout", io.StringIO())
        exec(readable_script(recipe), {})
        lines = sys.stdout.getvalue().splitlines()
    assert all(limit == 30 and stop == ["</think>"] for _, limit, stop in said.asked[::2][:1])
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("thought", "joined"),
    [
        ("a\n\nb</think>", "a\n\nb"),  # stop strings inside
        ("\nQ: c</think>\n\n9", "\nQ: c"),  # text after the mark in the same token
        ("x" * 40, "x" * 30),  # longer than its limit
        ("", ""),
    ],
)
@pytest.mark.parametrize("steps", [(), ("last_word",)])
def test_a_stop_string_ends_the_answer_alone(
    thought: str, joined: str, steps: tuple[str, ...]
) -> None:
    follow = {}
    for name in "pqr":
        follow[f"[{name}?]<think>\n"] = thought
        follow[f"[{name}?]<think>\n{joined}</think>\n\n"] = f"1 {name}\nno more"
    recipe = RECIPE.model_copy(update={"postprocess": steps})
    expected = [name if steps else f"1 {name}\n" for name in "pqr"]
    assert printed(recipe, follow, list("pqr")) == expected


def test_the_statements_of_thinking_count() -> None:
    plain = RECIPE.model_copy(update={"thinking": None, "opening": "", "template": {}})
    assert len(script(RECIPE)) > len(script(plain))
    assert "thought" not in readable_script(plain)
