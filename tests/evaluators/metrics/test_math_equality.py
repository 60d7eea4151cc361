from pathlib import Path

import pytest

from kilobit.evaluators.metrics import math_equality
from kilobit.evaluators.metrics.math_equality import judge, same_answer
from tests.support.tasks.math_cases import problem, task_from


@pytest.mark.parametrize(
    ("gold", "output"),
    [
        ("\\frac{1}{2}", "1/2"),
        ("\\frac{1}{2}", " 0.5\n"),
        ("\\frac{1}{2}", "$\\frac12$"),
        ("\\frac{1}{2}", "\\boxed{\\dfrac{2}{4}}"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("(1,2)", "(1, 2)"),
        ("\\{1,2\\}", "\\{2, 1\\}"),
        ("x^2+1", "1+x^2"),
        ("1,000", "1000"),
        ("\\text{(A)}", "A"),
        ("-3", "-3.0"),
        ("5", "x=5"),
        ("no parser knows (", "no parser knows ("),
    ],
)
def test_the_same_answer_however_it_is_written(gold: str, output: str) -> None:
    assert same_answer(gold, output)


@pytest.mark.parametrize(
    ("gold", "output"),
    [
        ("10", ""),
        ("", ""),
        ("10", "11"),
        ("10", "-10"),
        ("10", "the answer is 10"),
        ("10", "9 + 2 = 10, so it is 10."),
        ("10", "5 5"),
        ("20", "10\n10"),
        ("10", "10, 11"),
        ("10", "11}\\boxed{10"),
        ("10", "10}\\boxed{10"),
        ("(1,2)", "(2,1)"),
        ("5", "5" + "+0" * 250),
        ("x^2+1", "x^2"),
        ("10", "\ud800"),
        ("10", "\0"),
        ("10", "[" * 50),
    ],
)
def test_what_is_not_the_same_answer(gold: str, output: str) -> None:
    assert not same_answer(gold, output)


def test_missing_math_verify_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equality, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs math-verify: pip install 'kilobit\[bench\]'"):
        task_from(tmp_path, [problem(i) for i in range(30)], [problem(40)])
    assert judge() is judge()
