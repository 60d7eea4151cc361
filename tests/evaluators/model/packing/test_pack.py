"""What candidates do in a pack is what they do alone."""

import pytest
import torch

from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.packing.pack import Pack
from tests.support.packs import beside, spec


def test_an_error_in_a_pass_leaves_no_hooks(llama: FrozenModel) -> None:
    _, change = beside(llama, spec())
    with (
        pytest.raises(ValueError, match="gets 2 rows, expected 3"),
        Pack(llama.model, [change]) as pack,
        pack.rows(torch.zeros(3, dtype=torch.long)),
    ):
        pack(torch.ones(2, 4, dtype=torch.long))
    assert not any(module._forward_hooks for module in llama.model.modules())
