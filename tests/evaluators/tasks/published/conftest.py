"""Punkt data for tests, learned from sentences of our own, because the real ones are a download."""

from pathlib import Path

import pytest

from tests.support.tasks.ifeval_cases import SENTENCES


@pytest.fixture(scope="session")
def punkt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for NLTK_DATA, with parameters that know two abbreviations."""
    from nltk.tokenize.punkt import PunktParameters, PunktTrainer, save_punkt_params

    folder = tmp_path_factory.mktemp("nltk_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nltk.data.path", [str(folder)])
        trainer = PunktTrainer(" ".join(SENTENCES * 20))
        params: PunktParameters = trainer.get_params()
        params.abbrev_types |= {"dr", "p.m"}
        place = folder / "tokenizers" / "punkt_tab" / "english"
        place.parent.mkdir(parents=True)
        save_punkt_params(params, str(place))
    return folder


@pytest.fixture
def with_punkt(punkt: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("nltk.data.path", [str(punkt)])
    monkeypatch.setenv("NLTK_DATA", str(punkt))
    return punkt


@pytest.fixture
def without_punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
