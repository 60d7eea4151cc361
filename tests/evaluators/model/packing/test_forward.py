"""Reading rows with a shared beginning gives what reading each row whole gives."""

import pytest
import torch

from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.packing.forward import Reading, _shared
from kilobit.evaluators.model.packing.pack import Pack

START = tuple(range(20, 60))


def test_shared_beginnings_are_counted_by_slot_and_leave_a_token_of_each_row() -> None:
    rows = [(0, (*START, 3)), (0, (*START, 4, 5)), (1, (9, 9)), (2, START), (2, START)]
    assert _shared(rows) == {0: 40, 1: 0, 2: 39}
    assert _shared([(0, (1, 2)), (0, (1, 3))]) == {0: 0}


@pytest.mark.parametrize("begin", [True, False])
def test_logits_are_those_of_each_row_alone(llama: FrozenModel, begin: bool) -> None:
    rows = [(0, (*START, 3)), (0, (*START, 4, 5)), (1, (9, 9, 8))]
    with torch.no_grad(), Pack(llama.model, [{}, {}]) as pack:
        reading = Reading(pack, rows, 0, "cpu")
        rest = reading.begin() if begin else [list(ids) for _, ids in rows]
        assert [len(ids) for ids in rest] == ([3, 3, 3] if begin else [41, 42, 3])
        with pack.rows(reading.slots):
            found = reading.read(rest, 1)[:, -1]
            after = reading.next(torch.tensor([7, 7, 7]))
    for row, (_, ids) in enumerate(rows):
        with torch.no_grad():
            alone = llama.model(torch.tensor([[*ids, 7]])).logits[0]
        torch.testing.assert_close(found[row], alone[-2], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(after[row], alone[-1], atol=1e-5, rtol=1e-5)
