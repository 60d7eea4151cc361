from typing import Any

import pytest

from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.packing.decode import answer
from kilobit.evaluators.model.packing.deltas import detached, fixed
from kilobit.evaluators.model.packing.passes import Planner
from tests.conftest import random_numbers
from tests.support.packs import beside, rows_of, said, spec


def test_fixed_changes_stay_when_the_adapter_goes_on(llama: FrozenModel) -> None:
    adapter, change = beside(llama, spec(method="ln_tuning", rank=None, target_modules=("norm",)))
    adapter.assign(random_numbers(adapter, 1))
    before = fixed(change)
    rows = rows_of(llama, [""], [0])
    first = said(llama, answer(llama, [before], rows, Planner()))
    adapter.assign(random_numbers(adapter, 2))
    assert said(llama, answer(llama, [before], rows, Planner())) == first
    assert said(llama, answer(llama, [fixed(change)], rows, Planner())) != first


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "weights", "rank": None},
        {"method": "fourierft", "rank": None, "size": 3},
        {"target_modules": ("embed_tokens",)},
    ],
)
def test_what_has_no_form_for_packs_is_left_to_run_alone(
    llama: FrozenModel, changes: dict[str, Any]
) -> None:
    assert detached(llama, spec(**changes)) is None
    assert weights_digest(llama.model) == llama.digest
