r"""How many cases of the field's own suites get the field's own score.

    pip download --no-deps --no-binary math-verify math-verify==0.9.0 && tar xf math_verify-*.tar.gz
    KILOBIT_DATA=FOLDER python benchmarks/reference_suites.py --math-verify math_verify-0.9.0/tests

Prints a Markdown row for each suite: cases tried, cases that agree. KILOBIT_DATA has gsm8k/ and
ifeval/ as published. A suite whose files are not there is left out with a line that says so;
nothing is fetched.

- GSM8K: each published gold answer is scored against itself.
- IFEval: unit checks of all types that need no Punkt data, a response that follows the instruction
  and one that does not; and the official prompts with odd responses, against the harness alone,
  without those that need Punkt data or let the harness draw at random.
- BLEU: outputs in six languages, against the command line of sacrebleu.
- math-verify: the cases of its own tests. Its tests also find an answer in prose, which a program
  would have to do here, so what is compared is the content of the box, or of the formula that is
  the whole text. Cases that are wrong are listed in `WRONG` with the reason.
"""

import argparse
import ast
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kilobit.evaluators.metrics.bleu import tokenizer_of
from kilobit.evaluators.metrics.math_equality import same_answer
from kilobit.evaluators.metrics.metrics import METRICS, CorpusBleu
from kilobit.evaluators.tasks.published.gsm8k import gsm8k_example
from kilobit.evaluators.tasks.published.ifeval import (
    PUNKT_TYPES,
    Ifeval,
    Prompt,
    check_response,
    has_punkt,
    ifeval_prompt,
)
from kilobit.evaluators.tasks.published.math import last_boxed
from kilobit.evaluators.text_files import json_lines
from kilobit.search.task import make_example

Count = tuple[int, int]
# Targets in six languages, and outputs that are right in part.
SENTENCES = {
    "en": [
        ("The cat isn't on the table, it sleeps under it.", "The cat isn't on a table, it sleeps."),
        ("We met at 10:30 a.m. in London.", "We met at 10:30 in London."),
    ],
    "de": [
        ("Die Katze liegt nicht auf dem Tisch.", "Die Katze liegt auf dem Tisch."),
        ("Wir trafen uns um halb elf in Köln.", "Wir trafen uns in Köln um halb elf."),
    ],
    "fr": [
        ("Le chat n'est pas sur la table, il dort dessous.", "Le chat n'est pas sur la table."),
        ("Nous nous sommes vus à Lyon hier soir.", "Nous nous sommes vus hier soir à Lyon."),
    ],
    "zh": [
        ("猫不在桌子上\uff0c它睡在桌子下面。",
         "猫不在桌子上\uff0c它在桌子下。"),
        ("我们上午10:30在北京见面。",
         "我们在北京见面。"),
    ],
    "ja": [
        ("猫は机の上にいません。下で寝ています。",
         "猫は机の上にいます。下で寝ている。"),
        ("私たちは東京で会いました。",
         "私たちは東京にいました。"),
    ],
    "ko": [
        ("고양이는 탁자 위에 없고 아래에서 자고 있습니다.",
         "고양이가 탁자 위에 없고 아래에서 잡니다."),
        ("우리는 서울에서 만났습니다.",
         "우리는 서울에서 만났다."),
    ],
}  # fmt: skip
# IFEval's types: arguments, a response that follows the instruction, one that does not.
UNIT_CHECKS: dict[str, list[tuple[dict[str, Any], str, str]]] = {
    "keywords:existence": [({"keywords": ["river", "sea"]}, "A River to the sea.", "A river.")],
    "keywords:frequency": [
        ({"keyword": "one", "frequency": 2, "relation": "at least"}, "One and one.", "One."),
        ({"keyword": "one", "frequency": 2, "relation": "less than"}, "One.", "One and one."),
    ],
    "keywords:forbidden_words": [({"forbidden_words": ["cat"]}, "Catalogue.", "A Cat sat.")],
    "keywords:letter_frequency": [
        (
            {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
            "Quite quick.",
            "Quite so.",
        )
    ],
    "language:response_language": [
        ({"language": "es"}, "Hoy desayunamos en la cocina con mi familia.", "We had breakfast."),
        ({"language": "en"}, "Today we visit the old museum.", "Heute besuchen wir das Museum."),
    ],
    "length_constraints:number_paragraphs": [
        ({"num_paragraphs": 2}, "one\n***\ntwo", "one\n***\ntwo\n***\nthree"),
        ({"num_paragraphs": 3}, "***\none\n***\ntwo\n***\nthree", "one\n***\n***\nthree"),
    ],
    "length_constraints:number_words": [
        ({"num_words": 3, "relation": "at least"}, "one two three", "one two"),
        ({"num_words": 3, "relation": "less than"}, "one two", "one two three"),
    ],
    "length_constraints:nth_paragraph_first_word": [
        (
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
            "First.\n\nThen more.",
            "Then more.\n\nFirst.",
        )
    ],
    "detectable_content:number_placeholders": [
        ({"num_placeholders": 2}, "Dear [name] of [town],", "Dear [name],")
    ],
    "detectable_content:postscript": [
        ({"postscript_marker": "P.S."}, "Yes.\nP.S. No.", "Yes."),
        ({"postscript_marker": "P.P.S"}, "Yes.\nP.P.S No.", "Yes.\nP.S. No."),
    ],
    "detectable_format:number_bullet_lists": [
        ({"num_bullets": 2}, "* one\n* two", "* one"),
        ({"num_bullets": 1}, "a\n***\nb\n- only one", "- one\n- two"),
    ],
    "detectable_format:constrained_response": [
        ({}, "My answer is yes.", "It depends."),
    ],
    "detectable_format:number_highlighted_sections": [
        ({"num_highlights": 2}, "*one* and **two**", "*one and two")
    ],
    "detectable_format:multiple_sections": [
        ({"section_spliter": "Part", "num_sections": 2}, "Part 1\na\nPart 2\nb", "Part 1\na")
    ],
    "detectable_format:json_format": [({}, '{"a": [1, 2]}', "{a: 1}")],
    "detectable_format:title": [({}, "<<A title>>\nText", "<A title>\nText")],
    "combination:two_responses": [({}, "one\n******\ntwo", "one\n******\none")],
    "combination:repeat_prompt": [
        ({"prompt_to_repeat": "Say it."}, "Say it. I did.", "I did. Say it.")
    ],
    "startend:end_checker": [({"end_phrase": "The end."}, "So it was. The end.", "The end. Or?")],
    "change_case:english_capital": [({}, "ALL OF THIS IS LOUD.", "Not ALL of this is.")],
    "change_case:english_lowercase": [({}, "all of this is quiet.", "Not all of this is.")],
    "punctuation:no_comma": [({}, "No, that is one".replace(",", ""), "No, that is one")],
    "startend:quotation": [({}, '"All of it."', '"A part" of it.')],
}
# What math-verify's tests accept, or refuse, against the truth or against the rules of MATH.
WRONG = {
    ("1000.99", "1000,99"): "a comma is no decimal point in MATH",
    ("1,22", "1.22"): "a comma is no decimal point in MATH",
    ("0,111", "0.111"): "a comma is no decimal point in MATH",
    ("$x = 1/3$", "$x = 5+5+1 = 1/3 \\approx 11$"): "the equation is false",
    ("$11$", "$x\\approx11$"): "an approximation is no equation",
    ("$1/3$", "$x=1/3\\approx1.3$"): "the approximation is false",
    ("$(1,3)$", "${1,3}$"): "a pair is no set",
    (
        "$(37,3,3,13),(17,3,3,7),(3,37,3,13),(3,17,3,7),(3,3,2,3)$",
        "$\\boxed{(3, 37, 3, 13), (3, 17, 3, 7), (3, 3, 2, 3), (3,17,3,7), (17,3,3,7), "
        "(37,3,3,13)}$",
    ): "one of them occurs twice",
    ("$1 - \\frac{1}{\\mathrm{e}}$", "$1 + \\frac{1}{\\mathrm{e}}$"): "another sign",
}


def gsm8k(folder: Path) -> Count:
    """Score each gold answer as an output."""
    tried = agreed = 0
    for name in ("train", "test"):
        for where, record in json_lines(folder / "gsm8k" / f"{name}.jsonl"):
            example = gsm8k_example(record, where, "number")
            output = record["answer"].rpartition("#### ")[2]
            agreed += METRICS["number"].per_example(output, example) == 1
            tried += 1
    return agreed, tried


def unit_checks() -> Count:
    """Check each response of `UNIT_CHECKS`."""
    found = [
        check_response(Prompt(1, "A question.", (name,), (arguments,)), response).strict[0] is right
        for name, checks in UNIT_CHECKS.items()
        for arguments, *responses in checks
        for response, right in zip(responses, (True, False), strict=True)
    ]
    return sum(found), len(found)


def _odd(prompt: str) -> list[str]:
    return [
        "", " ", prompt, prompt.upper(), prompt.lower(), f'"{prompt}"', f"<<{prompt}>>",
        f"{prompt}\n\nP.S. {prompt}", f"* {prompt}\n* **{prompt}**\n- [a] [b] [c]",
        json.dumps([prompt]), f"{prompt}\n***\n{prompt}\n******\n{prompt.upper()}",
        "Section 1\n" + prompt.replace(",", ""), "My answer is maybe.",
        "\u2028\u00e9\U0001f600 ```" + prompt + "```",
    ]  # fmt: skip


def official_prompts(folder: Path) -> tuple[Count, int]:
    """Compare the official prompts' scores with the harness, and count those left out."""
    lines = json_lines(folder / "ifeval" / "input_data.jsonl")
    records = [(record, ifeval_prompt(record, where)) for where, record in lines]
    # Imported only now: the checks above import it without its attempt to download Punkt.
    from lm_eval.tasks.ifeval import utils

    tried = agreed = left_out = 0
    for record, prompt in records:
        letters = (str(one.get("letter", "a")) for one in prompt.arguments)
        # The harness draws another letter each time for one that is none.
        if not all(map(str.isalpha, letters)) or (
            set(prompt.instructions) & set(PUNKT_TYPES) and not has_punkt()
        ):
            left_out += 1
            continue
        example = make_example(prompt.text, "", prompt.as_extra())
        for response in _odd(prompt.text):
            theirs = utils.process_results(record, [response])
            columns = Ifeval().columns(response, example)
            strict = Ifeval().per_example(response, example)
            agreed += (strict, columns["strict"], columns["loose"]) == (
                theirs["prompt_level_strict_acc"],
                sum(theirs["inst_level_strict_acc"]),
                sum(theirs["inst_level_loose_acc"]),
            )
            tried += 1
    return (agreed, tried), left_out


def by_the_command(folder: Path, outputs: list[str], targets: list[str], *options: str) -> float:
    """Return what sacrebleu's command line prints with all the digits of a float."""
    (folder / "out").write_text("".join(f"{line}\n" for line in outputs), "utf-8")
    (folder / "ref").write_text("".join(f"{line}\n" for line in targets), "utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "out", "-b", "-w", "17", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    return float(done.stdout)


def bleu() -> Count:
    """Compare corpus BLEU of each language, and of its sentences one by one."""
    tried = agreed = 0
    for language, pairs in SENTENCES.items():
        for part in (pairs, *([pair] for pair in pairs)):
            targets, outputs = map(list, zip(*part, strict=True))
            with TemporaryDirectory() as folder:
                options = ("-l", f"en-{language}")
                expected = by_the_command(Path(folder), outputs, targets, *options)
            examples = [make_example(str(i), target) for i, target in enumerate(targets)]
            found = CorpusBleu(tokenizer_of(language)).corpus(outputs, examples).score
            agreed += math.isclose(100 * found, expected, rel_tol=1e-12)
            tried += 1
    return agreed, tried


def _cases(tests: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield the gold answers, outputs and verdicts in math-verify's tests."""
    for file in sorted(tests.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not (isinstance(node, ast.Tuple) and len(node.elts) == 3):
                continue
            values = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            if len(values) == 3 and isinstance(values[0], str) and isinstance(values[1], str):
                yield values[0], values[1], bool(values[2])


def _answer(text: str) -> str | None:
    """Return the answer that a text consists of, None if it is in prose or in several boxes."""
    boxes, text = text.count("\\boxed"), text.strip()
    if boxes:
        return last_boxed(text) if boxes == 1 else None
    for mark in ("$$", "$"):
        inside = text.removeprefix(mark).removesuffix(mark)
        if len(text) - len(inside) == 2 * len(mark) and mark not in inside:
            return inside.strip()
    is_prose = "$" in text or text[:1].isupper() or any(word.isalpha() for word in text.split()[1:])
    return None if is_prose else text


def math_verify(tests: Path, show: bool) -> tuple[Count, int, int]:
    """Compare the verdicts, and count the cases that are wrong and those in prose."""
    tried = agreed = wrong = prose = 0
    for gold, output, right in _cases(tests):
        answers = _answer(gold), _answer(output)
        if None in answers:
            prose += 1
        elif (gold, output) in WRONG:
            wrong += 1
        else:
            tried += 1
            same = same_answer(*map(str, answers)) is right
            agreed += same
            if show and not same:
                print(f"- {right}: {gold!r}, {output!r}", file=sys.stderr)
    return (agreed, tried), wrong, prose


def main() -> None:
    """Print a row for each suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--math-verify", type=Path, metavar="TESTS", help="its folder of tests")
    parser.add_argument("--show", action="store_true", help="name the cases that differ")
    args = parser.parse_args()
    print("| suite | agree | tried | left out |\n|---|---|---|---|")

    def row(name: str, count: Count, left_out: str = "") -> None:
        print(f"| {name} | {count[0]:,} | {count[1]:,} | {left_out} |", flush=True)

    data = os.environ.get("KILOBIT_DATA")
    row("IFEval, unit checks", unit_checks())
    row("sacrebleu's command line, six languages", bleu())
    if data is None:
        print("GSM8K and IFEval's prompts are left out: KILOBIT_DATA names no folder")
    else:
        row("GSM8K, gold answers", gsm8k(Path(data)))
        count, left_out = official_prompts(Path(data))
        row(
            "IFEval, official prompts",
            count,
            f"{left_out} prompts",
        )
    if args.math_verify is None:
        print("math-verify's cases are left out: --math-verify names no folder of tests")
    else:
        count, wrong, prose = math_verify(args.math_verify, args.show)
        row("math-verify, its own cases", count, f"{wrong} wrong, {prose} in prose")


if __name__ == "__main__":
    main()
