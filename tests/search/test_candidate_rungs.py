import pytest
from pydantic import ValidationError

from kilobit.search.candidate import Rung, RungConfig


def test_examples_and_steps_grow_by_the_same_factor_from_rung_to_rung() -> None:
    ladder = RungConfig(examples=6, train_steps=10, eta=3, count=4).ladder()
    assert ladder == (Rung(0, 6, 10), Rung(1, 18, 30), Rung(2, 54, 90), Rung(3, 162, 270))


def test_a_ladder_of_one_rung_is_its_first() -> None:
    assert RungConfig(examples=5, train_steps=7, eta=10, count=1).ladder() == (Rung(0, 5, 7),)


@pytest.mark.parametrize(
    ("field", "value"),
    [("eta", 1), ("eta", 11), ("count", 0), ("count", 13), ("examples", 0), ("train_steps", 0)],
)
def test_a_ladder_that_does_not_grow_or_has_no_end_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValidationError, match=rf"(?s)^1 validation error.*\b{field}\b"):
        RungConfig.model_validate({field: value})
