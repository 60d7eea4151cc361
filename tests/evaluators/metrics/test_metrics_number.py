from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example as sample
from hypothesis import given
from hypothesis import strategies as st

from kilobit.evaluators.metrics.metrics import METRICS, parse_number, plain_number
from kilobit.search.programs.postprocess import postprocess
from kilobit.search.task import make_example

SIGNS, UNITS = ("-", "+", "\u2212"), ("$", "\u20ac", "\u00a3", "\u20b9", "%")
SPACES = ("\u00a0", "\u2009", "\u202f", " ")
PIECES = (
    *SIGNS,
    *UNITS,
    *SPACES,
    *"0123456789",
    ",",
    ".",
    "/",
    "e",
    "E",
    "450",
    "\uff11",
    "\u0663",
)


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
        ("9" * 5000, "9" * 5000),
        ("+18", "18"),
        ("1\u2009450", "1450"),
        ("1\u00a0450,000", "1450000"),
        ("-12\u202f345.5", "-12345.5"),
        ("50%", "50"),
        ("50 %.", "50"),
        ("18 \u20ac", "18"),
        ("\u20ac\u00a018", "18"),
        ("-\u20b9.50", "-0.5"),
        ("1e3", "1000"),
        ("1.5E\u22123", "0.0015"),
        ("1e999", "1e999"),
        ("\u0661\u0662", "12"),
        ("\uff11,\uff14\uff15\uff10", "1450"),
    ],
)
def test_a_number_is_the_whole_text(text: str, value: str) -> None:
    assert parse_number(text) == Fraction(Decimal(value))
    assert parse_number(postprocess(text, ["last_number"])) == parse_number(text)


@pytest.mark.parametrize(
    ("text", "value", "plain"),
    [
        ("1/2", Fraction(1, 2), "1/2"),
        ("-3/4.", Fraction(-3, 4), "-3/4"),
        ("1,450/2", Fraction(725), "1450/2"),
        ("$1/2", Fraction(1, 2), "1/2"),
    ],
)
def test_a_fraction_is_a_number(text: str, value: Fraction, plain: str) -> None:
    assert parse_number(text) == value
    assert plain_number(text) == plain
    assert parse_number(postprocess(text, ["last_number"])) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", ".", "-", "$", "18 dollars", "= 18", "1,45", "1,4500", ",450", "1 1/2", "1/0",
     "1/2/3", "1e1000", "1e999999999", "2^3", "nan", "inf", "--3", "-$-3", "18..", "1 000", "1\n2",
     "1_000", "#### 18", "%5", "$5%", "$$5", "#5", "5-3", "2024-01-05", ".1,450", "- 5", "(5)",
     "\u00bd", "5\u00b2", "1\u066c450", "\uff0d5", "1'450", "1.450,5"],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    assert parse_number(text) is None
    assert plain_number(text) is None


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
@sample("-$.5")
@sample("$-.5")
@sample("1,450/2")
@sample("\u20ac -18.")
def test_the_last_number_of_a_number_is_its_value(text: str) -> None:
    value = parse_number(text)
    if value is not None:
        for step in ("last_number", "first_number"):
            assert parse_number(postprocess(text, [step])) == value


@given(
    st.sampled_from((*SIGNS, "")),
    st.sampled_from((*UNITS, "")),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=0, max_value=10**12),
    st.sampled_from((",", "\u2009", "\u202f", "\u00a0", "")),
    st.sampled_from(("", "e-2", "/7")),
    st.sampled_from(("It is ", "(", "= ", "**", "a: ", "3, ")),
    st.sampled_from((".", ")", "**", "")),
)
def test_a_number_is_found_in_a_text(
    sign: str, unit: str, value: Decimal, group: str, more: str, before: str, after: str
) -> None:
    unit = unit.removesuffix("%")
    whole = f"{sign}{unit}{value:,f}".replace(",", group) + more
    expected = parse_number(whole)
    assert expected is not None
    assert parse_number(postprocess(f"{before}{whole}{after}", ["last_number"])) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5-3", 3),
        ("2024-01-05", 5),
        ("01/05/2024", 2024),
        ("pages 10-20.", 20),
        ("5 - 3", 3),
        ("x=-5", -5),
        ("A-5", 5),
        ("5--3", -3),
        ("(3,4)", 4),
        ("1999,2000", 2000),
        ("see p.5", 5),
        ("The answer is...42", 42),
        ("version 3.2.1", 1),
        ("It costs -$1,450.", -1450),
        ("$1,450, or \u22125", -5),
        ("about 1e3 or 2e-1", Fraction(1, 5)),
        ("100 200", 200),
    ],
)
def test_what_the_last_number_of_a_text_is(text: str, value: Fraction) -> None:
    assert parse_number(postprocess(text, ["last_number"])) == value


def test_a_plain_number_has_digits_only() -> None:
    assert [plain_number(t) for t in ("$1,450.", "-1,000.50", "\u22127", "1e3", "5%")] == [
        "1450",
        "-1000.50",
        "-7",
        "1000",
        "5",
    ]


def test_equal_numbers_score_however_they_are_written() -> None:
    example = make_example("x", "1,450")
    metric = METRICS["number"]
    outputs = ("1450", " $1,450.00 ", "1450.", "1451", "the answer is 1450", "", "-1450")
    assert [metric.per_example(out, example) for out in outputs] == [1, 1, 1, 0, 0, 0, 0]


def test_an_unreadable_gold_answer_makes_nothing_right() -> None:
    example = make_example("x", "none")
    assert [METRICS["number"].per_example(out, example) for out in ("none", "", "0")] == [0, 0, 0]
