import pytest
import torch

from kilobit.cluster.shards.zero3 import _settings, _whole, check_offload, gathered
from kilobit.cluster.sweep.workers import OffloadConfig


def test_settings_gather_nothing_for_longer_than_it_is_used() -> None:
    settings = _settings(None)["zero_optimization"]
    assert settings == {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
    }


def test_offload_goes_to_memory_or_to_a_folder() -> None:
    memory = _settings(OffloadConfig(device="cpu", pin_memory=False))["zero_optimization"]
    assert memory["offload_param"] == {"device": "cpu", "pin_memory": False}
    drive = OffloadConfig.model_validate({"device": "nvme", "nvme_path": "/fast"})
    assert _settings(drive)["zero_optimization"]["offload_param"]["nvme_path"] == "/fast"


def test_a_drive_that_deepspeed_can_not_write_to_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import deepspeed.ops

    check_offload(None)
    check_offload(OffloadConfig(device="cpu"))
    monkeypatch.setattr(deepspeed.ops, "__compatible_ops__", {"async_io": False})
    with pytest.raises(ValueError, match="needs libaio"):
        check_offload(OffloadConfig.model_validate({"device": "nvme", "nvme_path": "/fast"}))


def test_a_tensor_that_is_not_partitioned_is_itself_and_its_copy_is_apart() -> None:
    tensor = torch.arange(3.0)
    with gathered(tensor) as found:
        assert found is tensor
    copy = _whole(tensor)
    copy += 1
    assert tensor.tolist() == [0, 1, 2]
