"""The judge's prompt, its settings, and the verdict that a reply states."""

import re

import pytest

from kilobit.evaluators.judges.judges import TEMPLATE, EndpointJudge, fill, read_verdict
from kilobit.evaluators.judges.preference import Question

# Each states A; with the letters exchanged it states B.
STATES_A = [
    "A",
    " a.",
    "A!",
    "**Verdict: A**",
    "**Verdict:** A",
    "Verdict: **A**",
    "__Verdict__: A",
    "Final answer: A",
    "FINAL ANSWER: A",
    "final answer is A.",
    "My final verdict is: **A**.",
    "Answer: (A)",
    "Answer: [A]",
    "[A]",
    "(A)",
    '"A"',
    "'A'",
    "“A”",
    "`A`",
    "【A】",
    "\uff21",
    "\uff36\uff45\uff52\uff44\uff49\uff43\uff54\uff1a\uff21",
    "verdict: a",
    "[[A]]",
    "[[a]]",
    "I think... [[A]] because it is shorter.",
    r"\boxed{A}",
    r"$\boxed{\text{A}}$",
    r"The answer is $\boxed{A}$.",
    r"\boxed{\textbf{A}}",
    '{"verdict": "A"}',
    '```json\n{"verdict": "A", "reason": "B is long"}\n```',
    '{"reason": "better than B", "winner": "A"}',
    "{'final_verdict': 'A'}",
    '{"winner": "model_a"}',
    '{"verdict":"Answer A"}',
    "<think>B is good. Verdict: B</think>A",
    "<think>\nVerdict: B\n</think>\n\n**Verdict: A**",
    "reasoning without open tag. B\n</think>\nA",
    "[THINK]B[/THINK]A",
    "<thinking>[[B]]</thinking>[[A]]",
    "<verdict>A</verdict>",
    "<answer>A</answer>",
    "<answer> **A** </answer>",
    "The winner is A.",
    "The winner is: A",
    "Winner: A",
    "The better answer is A.",
    "Better: A",
    "A is better.",
    "Answer A is better.",
    "Assistant A is the better one.",
    "Response A wins.",
    "I prefer A.",
    "I'd go with Answer A.",
    "I would choose A",
    "Therefore, the winner is A.",
    "Overall, A is better.",
    "Answer A",
    "Option A",
    "Both are good in ways.\nB is long.\n\nVerdict: A",
    "Answer A is concise; answer B is not.\n\n[[A]]",
    "### Answer A\n- clear\n### Answer B\n- wordy\n\n**Final verdict:** A",
    "Verdict: A\n\nReason: B is too long.",
    "A, because it is shorter.",
    "Verdict: A - it is shorter",
    "Verdict: A (more direct)",
    "Verdict → A",
    "Final Verdict: Assistant A",
    "# Verdict\n\nA",
    "A<|im_end|>",
    "🏆 Winner: A",
    "- **Verdict: A**",
    "> Verdict: A",
    "1. x\n2. y\nA",
    "*A*",
    "\U0001d400",
    "Answer A.",
    "Final Answer\nA",
    'Verdict: "A"',
    "Verdict: A is better",
    "The final verdict is A, by a small margin.",
    "<strong>A</strong>",
    "The preferred response is A",
    "My vote goes to A",
    "The answer is: A",
    "Judgement: A",
    "Judgment: A",
    "A wins",
    "A is the winner.",
    "So the answer is A",
    "The better response is (A)",
    "Preferred answer: A",
    "Verdict = A",
    r"\boxed{Answer A}",
    '{"verdict": "A", "confidence": 0.9}',
    '{\n  "verdict": "A"\n}',
    "1. Verdict: A",
    "I think A is better.",
    "In my view, A wins.",
    "It's A.",
    "Verdict A",
    "Final Answer: The answer is A.",
    "<final_answer>A</final_answer>",
    '{"better_response": "A"}',
    '{"winner": "A", "loser": "B"}',
    "**Verdict**: **[[A]]**",
    "Option (A) is better",
    "I choose: A",
    "The correct answer is A",
    "Result: A wins",
    "Winner - A",
    "The winner is **Assistant A**!",
    "\uff3b\uff3b\uff21\uff3d\uff3d",
    "Verdict:A",
    "Verdict: A ✅",
    "I'd say A.",
]

STATES_A += [
    "My judgment is that A is better.",
    "Based on the above, A is better.",
    "I conclude that A is better.",
    "A is the better response overall.",
    "I believe that Assistant A gave the better answer.",
    "Choose A.",
    "Overall, I think A wins.",
    "```\nA\n```",
    '```json\n"A"\n```',
    '{"verdict": "A", "reason": "it is sh',
    "Final Answer: $A$",
]

STATES_A_TIE = [
    "tie",
    "Tie.",
    "**Tie**",
    "[[tie]]",
    "It's a tie.",
    "It is a draw",
    "Verdict: tie",
    "Verdict: a tie",
    r"\boxed{\text{tie}}",
    '{"verdict": "tie"}',
    "The result is a tie.",
    "They are tied.",
    "Verdict: tie (both are equally good)",
    "It's a tie between A and B.",
    "The verdict is a draw.",
    "[[Draw]]",
    "This is a tie.",
]

# They name both, none, or something else than the better answer.
STATES_NOTHING = [
    "A gave a better answer than B.",
    "Based on B, I can't say.",
    "I choose neither A nor B",
    "A has the better style, B the better content.",
    "A or B",
    "A and B",
    "Both are good",
    "Neither",
    "A better one is missing",
    "B\nbut A is nice too",
    "Verdict: A or B",
    "Verdict: A/B",
    "Verdict: A and B",
    "Verdict: A B",
    "Verdict: AB",
    "Verdict: not A",
    "The winner is not A",
    "A is not better",
    "I would not choose A.",
    "Verdict: A better answer is needed",
    "Verdict: A?",
    "Verdict: A\nVerdict: B",
    "[[A]] [[B]]",
    "[[A]]\nB",
    r"\boxed{A} \boxed{B}",
    '{"verdict": "A or B"}',
    '{"verdict": null}',
    '{"A": 3, "B": 5}',
    '{"verdict": "A"} {"verdict": "B"}',
    "<think>A</think>",
    "<think>\nVerdict: A",
    "hm",
    "",
    "Worse answer: A",
    "The weaker response is A",
    "Loser: A",
    "A is better than B",
    "Answer: both",
    "C",
    "Verdict: C",
    "I can't decide between A and B.",
    "Both A and B are good",
    "Verdict: B, but A is close",
    "Answer A:",
    "Answer A: good\nAnswer B: bad",
    "~~A~~",
    "Answer: A or tie",
    "A tie or B",
    "The best part of A is short",
    "A cat",
    "As an AI",
    "Verdict: Apple",
    "Verdict: A-",
    "Neither A nor B wins",
    "A\nB",
    "A\n\nAnswer B is worse.",
    "a. first\nb. second",
    r"\boxed{42}",
    "A wins, B loses.",
    "I prefer A to B",
    "[[A]] or [[B]]",
    "Better than A",
    "A > B",
    "I refuse.",
    '{"worse_answer": "A"}',
    "<worse_answer>A</worse_answer>",
    "Worst response: A",
    "A:",
    "It is a cat.",
    "It's a good answer",
    "Verdict: A\nB",
    "the result is a disaster",
    "A, B",
]


LETTERS = str.maketrans("Aa\uff21\U0001d400Bb", "Bb\uff22\U0001d401Aa")


def exchanged(text: str) -> str:
    """Return a reply with the letters of the answers exchanged, where they stand alone."""
    return re.sub(
        "(?<![^\\W_])[AaBb\uff21\U0001d400](?![^\\W_])", lambda m: m[0].translate(LETTERS), text
    )


@pytest.mark.parametrize("text", STATES_A)
def test_a_verdict_is_read_in_whatever_words(text: str) -> None:
    assert (read_verdict(text).position, read_verdict(text).reason) == ("first", None)
    assert read_verdict(exchanged(text)).position == "second"
    assert read_verdict(f"Here is what I think of them.\n\n{text}\n ").position == "first"


@pytest.mark.parametrize("text", STATES_A_TIE)
def test_a_tie_is_read(text: str) -> None:
    assert (read_verdict(text).position, read_verdict(text).reason) == ("tie", None)


@pytest.mark.parametrize("text", STATES_NOTHING)
def test_what_names_both_or_none_has_no_verdict(text: str) -> None:
    found = read_verdict(text)
    assert (found.position, found.reason is None) == (None, False)
    assert read_verdict(exchanged(text)).position is None


def test_a_verdict_may_come_before_its_reasons() -> None:
    assert read_verdict("A\n\nIt is more direct.").position == "first"
    assert read_verdict("It is more direct.\n\nA\n\nIt is more direct.").position is None


def test_a_long_reply_is_read_soon() -> None:
    for piece in ("the ", "better ", "answer: ", "[[A ", "<think>", "Verdict: - ", '"answer": "'):
        assert read_verdict(piece * 20_000).position is None


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
