from decimal import Decimal

import pytest

from kilobit.evaluators.metrics.metrics import METRICS, parse_number, plain_number
from kilobit.search.task import make_example


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"),
        (" 18\n", "18"),
        ("18.", "18"),
        ("18.00", "18"),
        (".5", "0.5"),
        ("$1,450.50", "1450.5"),
        ("-$3", "-3"),
        ("$-3", "-3"),
        ("\u22123", "-3"),
        ("12,345,678", "12345678"),
        ("007", "7"),
        ("-0", "0"),
        ("1" + "0" * 60 + "1", "1" + "0" * 60 + "1"),
        ("-1" + "0" * 60 + "1", "-1" + "0" * 60 + "1"),
    ],
)
def test_a_number_is_the_whole_text(text: str, value: str) -> None:
    assert parse_number(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    ["", " ", ".", "-", "$", "18 dollars", "= 18", "1,45", "1,4500", ",450", "+18", "50%", "1/2",
     "1e3", "nan", "inf", "--3", "-$-3", "18..", "1 000", "1\n2", "\u0661\u0662", "1_000",
     "#### 18"],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    assert parse_number(text) is None
    assert plain_number(text) is None


def test_a_plain_number_has_digits_only() -> None:
    assert [plain_number(t) for t in ("$1,450.", "-1,000.50", "\u22127")] == [
        "1450",
        "-1000.50",
        "-7",
    ]


def test_equal_numbers_score_however_they_are_written() -> None:
    example = make_example("x", "1,450")
    metric = METRICS["number"]
    outputs = ("1450", " $1,450.00 ", "1450.", "1451", "the answer is 1450", "", "-1450")
    assert [metric.per_example(out, example) for out in outputs] == [1, 1, 1, 0, 0, 0, 0]


def test_an_unreadable_gold_answer_makes_nothing_right() -> None:
    example = make_example("x", "none")
    assert [METRICS["number"].per_example(out, example) for out in ("none", "", "0")] == [0, 0, 0]
