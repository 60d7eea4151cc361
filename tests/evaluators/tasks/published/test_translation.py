import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.reference_suites import by_the_command
from kilobit.evaluators.metrics.bleu import corpus_bleu, sentence_statistics
from kilobit.evaluators.metrics.metrics import METRICS
from kilobit.evaluators.tasks.miniature.grammar import sentence
from kilobit.evaluators.tasks.published.translation import (
    FloresTask,
    Wmt14Task,
    load_flores,
    load_wmt14,
)
from kilobit.search.streams import stream
from kilobit.search.task import Task, make_example
from tests.support.tasks.records import write_jsonl


def noisy(rng: random.Random, text: str) -> str:
    words = text.split()
    kind = rng.randrange(5)
    if kind == 0:
        return ""
    if kind == 1:
        return " ".join(words[: rng.randint(0, len(words))])
    if kind == 2:
        rng.shuffle(words)
    return " ".join(words)


@pytest.mark.parametrize("seed", range(3))
def test_corpus_bleu_is_that_of_the_command_line_in_any_order_and_batch(
    tmp_path: Path, seed: int
) -> None:
    rng = stream(seed, "bleu")
    targets = [f"{sentence(rng).german} {rng.choice('.!?')} {rng.random()}" for _ in range(90)]
    examples = [make_example(str(i), target) for i, target in enumerate(targets)]
    outputs = [noisy(rng, target) for target in targets]
    expected = by_the_command(tmp_path, outputs, targets)
    assert 1 < expected < 99
    bleu = METRICS["bleu"]
    assert 100 * bleu.corpus(outputs, examples).score == pytest.approx(expected, rel=1e-15)
    for size in (1, 7, 90):
        order = rng.sample(range(90), 90)
        batches = [order[first : first + size] for first in range(0, 90, size)]
        parts = [
            sentence_statistics([outputs[i] for i in batch], [targets[i] for i in batch])
            for batch in batches
        ]
        score = 100 * float(corpus_bleu(np.concatenate(parts).sum(axis=0)))
        assert score == pytest.approx(expected, rel=1e-15)
        shuffled = bleu.corpus([outputs[i] for i in order], [examples[i] for i in order])
        assert shuffled.score == score / 100


def test_published_sentences_score_as_on_the_command_line(published: Path, tmp_path: Path) -> None:
    task = wmt14(published / "wmt-sample", texts=True)
    splits = task.splits
    assert len(splits.sealed) == 50
    assert len(splits.train) + len(splits.search) > 9900
    rng = random.Random(0)
    for split in (splits.sealed, splits.search[:500]):
        outputs = [noisy(rng, example.target) for example in split]
        expected = by_the_command(tmp_path, outputs, [example.target for example in split])
        found = 100 * task.metric.corpus(outputs, split).score
        assert found == pytest.approx(expected, rel=1e-15)


def wmt14(folder: Path, *, texts: bool = False, **changes: Any) -> Task:
    def source(name: str) -> dict[str, Any]:
        if not texts:
            return {"path": f"{name}.jsonl"}
        return {"texts": {"en": f"src-{name}.txt", "de": f"tgt-{name}.txt"}}

    config = {
        "kind": "wmt14",
        "direction": "en-de",
        "train": source("train"),
        "sealed": source("val"),
        **changes,
    }
    return load_wmt14(Wmt14Task.model_validate(config), folder)


def write_pairs(folder: Path, name: str, first: int, last: int) -> None:
    pairs = [(f"cat {i}", f"Katze {i}") for i in range(first, last)]
    records = [{"translation": {"en": en, "de": de}} for en, de in pairs]
    write_jsonl(folder / f"{name}.jsonl", records)
    (folder / f"src-{name}.txt").write_text("".join(f"{en}\n" for en, _ in pairs))
    (folder / f"tgt-{name}.txt").write_text("".join(f"{de}\n" for _, de in pairs))


def test_both_directions_from_records_and_from_text(tmp_path: Path) -> None:
    write_pairs(tmp_path, "train", 0, 100)
    write_pairs(tmp_path, "val", 100, 110)
    task = wmt14(tmp_path)
    assert wmt14(tmp_path, texts=True).splits == task.splits
    assert len(task.splits.sealed) == 10
    assert len(task.splits.train) + len(task.splits.search) == 100
    example = task.splits.train[0]
    assert example.target == example.input.replace("cat", "Katze")
    asked = task.ask(example.input) + task.show(example.target)
    assert asked == f"English: {example.input}\nGerman: {example.target}\n"
    assert task.metric.name == "bleu"
    back = wmt14(tmp_path, direction="de-en")
    assert back.ask("Katze 1") == "German: Katze 1\nEnglish:"
    assert {(e.target, e.input) for e in back.splits.sealed} == {
        (e.input, e.target) for e in task.splits.sealed
    }


def test_a_search_file_and_what_repeats_in_it(tmp_path: Path) -> None:
    write_pairs(tmp_path, "train", 0, 100)
    write_pairs(tmp_path, "dev", 90, 120)
    write_pairs(tmp_path, "val", 115, 125)
    splits = wmt14(tmp_path, search={"path": "dev.jsonl"}).splits
    assert [len(split) for split in (splits.train, splits.search, splits.sealed)] == [90, 25, 10]
    with pytest.raises(ValueError, match="give it or `search`, not both"):
        wmt14(tmp_path, search={"path": "dev.jsonl"}, search_share=0.5)


def test_malformed_pairs_are_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, "train", 0, 100)
    write_pairs(tmp_path, "val", 100, 110)
    (tmp_path / "src-val.txt").write_text("one\n\nthree\n")
    with pytest.raises(ValueError, match=r"src-val\.txt has 3 lines and .*tgt-val\.txt has 10"):
        wmt14(tmp_path, texts=True)
    (tmp_path / "tgt-val.txt").write_text("eins\nzwei\ndrei\n")
    with pytest.raises(ValueError, match=r"src-val\.txt, line 2: the line is empty"):
        wmt14(tmp_path, texts=True)
    with pytest.raises(ValueError, match=r"texts: there is no file for 'de'"):
        wmt14(tmp_path, sealed={"texts": {"en": "src-val.txt"}})
    with pytest.raises(ValueError, match="give one of `path`, `dataset` and `texts`"):
        wmt14(tmp_path, sealed={"texts": {}, "path": "val.jsonl"})
    # Published training data have empty sides; nobody learns from them.
    (tmp_path / "src-train.txt").write_text("one\n\nthree\nfour\nfive\n" + "six\n" * 95)
    write_pairs(tmp_path, "val", 100, 110)
    splits = wmt14(tmp_path, texts=True).splits
    assert len(splits.train) + len(splits.search) == 99
    lines = [{"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "a"}}, {"en": "a"}]
    for line, message in ((1, "translation: field 'de' must be a text"), (2, "'translation' must")):
        write_jsonl(tmp_path / "val.jsonl", [lines[0], lines[line]])
        with pytest.raises(ValueError, match=rf"val\.jsonl, line 2.*{message}"):
            wmt14(tmp_path)


def flores(place: Path, **changes: Any) -> Task:
    config = {"kind": "flores", "source": "eng_Latn", "target": "deu_Latn", **changes}
    return load_flores(FloresTask.model_validate(config), place)


def test_flores_from_its_folder_and_from_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for split, first, last in (("dev", 0, 40), ("devtest", 40, 60)):
        (tmp_path / split).mkdir()
        for language, word in (("eng_Latn", "cat"), ("deu_Latn", "Katze"), ("fra_Latn", "chat")):
            lines = "".join(f"{word} {i}\n" for i in range(first, last))
            (tmp_path / split / f"{language}.{split}").write_text(lines)
        records = [
            {"id": i, "sentence_eng_Latn": f"cat {i}", "sentence_deu_Latn": f"Katze {i}"}
            for i in range(first, last)
        ]
        (tmp_path / "data" / split).mkdir()
        write_jsonl(tmp_path / "data" / split / "part.jsonl", records)
    card = "---\nconfigs:\n- config_name: eng_Latn-deu_Latn\n  data_files:\n" + "".join(
        f"  - split: {split}\n    path: {split}/*.jsonl\n" for split in ("dev", "devtest")
    )
    (tmp_path / "data" / "README.md").write_text(card + "---\n")
    task = flores(tmp_path, folder=".")
    assert len(task.splits.sealed) == 20
    assert len(task.splits.train) + len(task.splits.search) == 40
    assert task.ask("x") == "eng_Latn: x\ndeu_Latn:"
    named = flores(tmp_path, dataset="./data", source_name="English", target_name="German")
    assert named.splits == task.splits
    assert named.ask("x") == "English: x\nGerman:"
    french = flores(tmp_path, folder=".", target="fra_Latn")
    assert {e.target.split()[0] for e in french.splits.sealed} == {"chat"}
    with pytest.raises(ValueError, match=r"dev/ita_Latn\.dev: No such file"):
        flores(tmp_path, folder=".", target="ita_Latn")


def test_flores_has_the_tokenizer_of_its_target(tmp_path: Path) -> None:
    for split, first, last in (("dev", 0, 40), ("devtest", 40, 60)):
        (tmp_path / split).mkdir()
        for language in ("eng_Latn", "deu_Latn", "zho_Hans", "tha_Thai"):
            lines = "".join(f"{language} {i}\n" for i in range(first, last))
            (tmp_path / split / f"{language}.{split}").write_text(lines, "utf-8")
    tasks = {name: flores(tmp_path, folder=".", target=name) for name in ("deu_Latn", "zho_Hans")}
    assert {name: task.metric.name for name, task in tasks.items()} == {
        "deu_Latn": "bleu",
        "zho_Hans": "bleu-zh",
    }
    with pytest.raises(ValueError, match="the target language tha_Thai puts no spaces"):
        flores(tmp_path, folder=".", target="tha_Thai")
    asked = flores(tmp_path, folder=".", target="tha_Thai", tokenizer="char")
    assert asked.metric.name == "bleu-char"
    with pytest.raises(ValueError, match="Input should be '13a', 'zh'"):
        flores(tmp_path, folder=".", tokenizer="moses")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give either `folder`"),
        ({"folder": ".", "subset": "all"}, "`subset` belongs to `dataset`"),
        ({"folder": ".", "target": "eng_Latn"}, "`source` and `target` are both eng_Latn"),
        ({"folder": ".", "target": "de"}, "String should match pattern"),
    ],
)
def test_flores_settings_that_contradict_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        flores(tmp_path, **changes)


def test_the_sample_is_json_all_the_way() -> None:
    config = Wmt14Task.model_validate_json(
        json.dumps(
            {
                "kind": "wmt14",
                "direction": "en-de",
                "train": {"texts": {"en": "a", "de": "b"}},
                "sealed": {"path": "c"},
            }
        )
    )
    assert Wmt14Task.model_validate_json(config.model_dump_json(), strict=True) == config
