"""Every architecture is the same on two ranks as on one, or refused before a search.

    UPDATE_DOCS=1 pytest tests/whole_runs/test_architectures_on_ranks.py -m slow

writes the second table of `docs/architectures.md`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilobit.cluster.shards.load import layout_of
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import REPOSITORY, _tokenizer
from tests.support.models import ARCHITECTURES, build_model
from tests.support.shards.architectures import KINDS, is_refused, spec_of, written
from tests.support.shards.pair import Pair, run_course

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PAGE = REPOSITORY / "docs" / "architectures.md"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    ranks = Pair()
    yield ranks
    ranks.stop()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_an_architecture_is_the_same_on_two_ranks_or_refused(
    name: str, pair: Pair, tmp_path: Path
) -> None:
    # transformers gives the tokenizers of Qwen 2 a padding token of their own if they have none.
    folder = build_model(name, _tokenizer(bos=False, pad=name == "qwen2_tied"), tmp_path / "model")
    config, about = BaseModelConfig(regime="r", path=folder), ARCHITECTURES[name]
    specs = {kind: spec_of(kind, about) for kind in KINDS}
    refused = [kind for kind, one in specs.items() if is_refused(name, one, split=True)]
    specs = {kind: one for kind, one in specs.items() if kind not in refused}
    one = run_course(RankAddress(), folder, ShardsConfig(), specs) if specs else None
    row = [name]
    for layout in ("tensor", "zero3"):
        shards = ShardsConfig.model_validate({"world_size": 2, "layout": layout})
        try:
            layout_of(config, Path(), shards)
        except ValueError as error:
            assert "use layout `zero3`" in str(error)
            row.append("refused")
            continue
        if one is None:
            row.append("refused")
            continue
        found = pair.run(folder, layout, specs)
        assert found.digest == one.digest
        assert found.losses == pytest.approx(one.losses, abs=1e-5)
        assert found.answers == one.answers
        row.append("same")
    row.append("; ".join(refused) or "none" if specs else "all")
    update = bool(os.environ.get("UPDATE_DOCS"))
    assert written(PAGE, "## On two ranks", f"| {' | '.join(row)} |", update=update)
