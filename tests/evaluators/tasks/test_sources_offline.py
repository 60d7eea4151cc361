import os

import datasets
import huggingface_hub
import pytest

from kilobit.evaluators.tasks.sources import offline, patched

VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def test_libraries_and_new_processes_are_offline_only_within_the_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with offline():
        assert [os.environ[name] for name in VARIABLES] == ["1", "1", "1"]
        assert datasets.config.HF_HUB_OFFLINE
        assert huggingface_hub.constants.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert "HF_DATASETS_OFFLINE" not in os.environ
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_an_error_restores_what_was_patched() -> None:
    before = os.sep

    def fail() -> None:
        with patched([(os, "sep", "!")]):
            assert os.sep == "!"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.sep == before
