"""What `verify`, `certify`, `scorecard`, `compare` and `export` say."""

import json
import shutil
from typing import Any

from kilobit.evaluators.tasks.registry import load_task
from tests.messages.run_cases import damaged
from tests.messages.scene import CANDIDATE, Case, Scene, ledger_of
from tests.support.rows import write_rows

TASK = {"kind": "jsonl", "name": "mine", "data": "d.jsonl", "metric": "exact_match"}
LINES = "".join(json.dumps({"input": str(i), "target": "x"}) + "\n" for i in range(60))
# Nothing that has to be downloaded, and little to compute.
SMALL = "tasks: [{task: {kind: miniature, name: numbers}, examples: 2}]\n"
NOTHING_ELSE = "perplexity: null\nsafety: null\ngame: null\nharness: []\n"


def finished(**how: Any) -> Any:
    """Return what makes a run with one program on its front."""
    return lambda scene: scene.finished(**how)


def without_its_data(*, verified: bool, small: bool = False) -> Any:
    """Return what makes a finished run whose data file is gone."""

    def given(scene: Scene) -> None:
        path = scene.file("d.jsonl", LINES)
        scene.finished(task=TASK, verified=verified)
        path.unlink()
        if small:
            battery(SMALL + NOTHING_ELSE)(scene)

    return given


def without_its_model(*, broken: bool = False, small: bool = False) -> Any:
    """Return what makes a finished run whose base model is gone, or can't be loaded."""

    def given(scene: Scene) -> None:
        shutil.copytree(scene.models["llama"], scene.here / "model")
        models = [{"regime": "llama", "path": "model"}]
        scene.finished(base_models=models, verified=False)
        shutil.rmtree(scene.here / "model")
        if broken:
            scene.file("model/config.json", "{}")
        if small:
            battery(SMALL + NOTHING_ELSE)(scene)

    return given


def battery(content: str, *, begun: bool = True) -> Any:
    """Return what writes the file of a battery."""

    def given(scene: Scene) -> None:
        scene.file("battery.yaml", content)
        if begun and not (scene.here / "run").exists():
            scene.finished()

    return given


def a_program_that_is_damaged(scene: Scene) -> None:
    """Make a finished run whose program is half there, and a small battery."""
    from kilobit.evaluators.model.base_model import load
    from kilobit.search.base_model import BaseModelConfig

    digest = load(BaseModelConfig(regime="llama", path=scene.models["llama"]), scene.here).digest
    scene.finished(base=digest)
    scene.file(f"run/ledger/programs/{CANDIDATE}-r0.a1.parquet", b"PAR1 no PAR1")
    battery(SMALL + NOTHING_ELSE)(scene)


def two_runs(scene: Scene) -> None:
    """Make two finished runs of the same seed."""
    scene.finished("run")
    scene.finished("other")


def damaged_decisions(scene: Scene) -> None:
    """Make a finished run and damage what was decided when nobody looks any more."""
    damaged("decisions")(scene)
    scene.monkeypatch.setattr("kilobit.evaluators.ledger.compaction.begin", lambda *_: [])


def damaged_now(table: str) -> Any:
    """Return what makes a finished run, a table of which is damaged after its attempt began."""

    def given(scene: Scene) -> None:
        scene.finished()
        # As if it appeared when the run was open and claimed already.
        scene.monkeypatch.setattr(
            "kilobit.evaluators.ledger.compaction.check_books", lambda _: None
        )
        scene.file(f"run/ledger/{table}/x.a2.parquet", b"PAR1 no PAR1")

    return given


def program(edit: Any = None, **about: Any) -> Any:
    """Return what writes the folder of a program and changes it."""

    def given(scene: Scene) -> None:
        folder = scene.program_folder(**about)
        if edit is not None:
            edit(scene, folder)

    return given


def judge(content: str, **answers: str) -> Any:
    """Return what writes the file of a judge and files of answers."""

    def given(scene: Scene) -> None:
        scene.file("judge.yaml", content)
        for name, text in answers.items():
            scene.file(f"{name}.jsonl", text)

    return given


def a_run_without_outputs(scene: Scene) -> None:
    """Make a run with a candidate that has printed nothing, and a judge."""
    run = scene.begun()
    write_rows(
        ledger_of(run), "candidates", CANDIDATE, [{"candidate": CANDIDATE, "model": "llama"}]
    )
    scene.file("judge.yaml", PEOPLE)
    scene.file("b.jsonl", ANSWER)


def three_runs(scene: Scene) -> None:
    """Make three runs, one of them with another budget."""
    for seed, name in enumerate(("run", "second", "third")):
        budget = {"candidates": 9} if name == "third" else {}
        scene.finished(name, seed=seed, budget=budget)


CERTIFY = [
    Case(
        "certify {run} --procedure",
        "--procedure needs 3 runs or more, each with its own seed",
        given=Scene.finished,
    ),
    Case(
        "certify {run} {here}/second {here}/third --procedure",
        "{run} and {here}/third are not runs of one search: budget differs",
        given=three_runs,
    ),
    Case("certify {run} run", "run is named twice: give each run once", given=finished()),
    Case(
        "certify {run} {here}/other",
        "{run} and {here}/other both have seed 0 for llama on numbers: give runs of different",
        given=two_runs,
    ),
    Case("certify {run}", "decisions/x.a1.parquet: not a part of a l", given=damaged_decisions),
    Case(
        "certify {run}",
        "{run} has no verified program on its front: nothing to certify",
        given=lambda scene: scene.begun(),
    ),
    Case(
        "certify {run}",
        "{here}/d.jsonl: No such file or directory",
        given=without_its_data(verified=True),
    ),
    Case(
        "certify {run}",
        "the sealed split of {run} was opened on 2026-01-02 00:00 UTC for another choice of 1 "
        "programs, and its results may have guided this one; --again certifies all the same",
        given=lambda scene: scene.opened(),
    ),
    Case(
        "certify {run}",
        "the sealed split of {run} has changed since it was opened on 2026-01-02 00:00 UTC: it was "
        "other and is ",
        given=lambda scene: scene.opened(digest="other"),
    ),
    Case(
        "certify {run}", "openings/x.a2.parquet: not a part of a led", given=damaged_now("openings")
    ),
    Case(
        "certify {run}",
        "certificates/x.a2.parquet: not a part of a ledger: ",
        status=1,
        given=damaged_now("certificates"),
    ),
]
VERIFY = [
    Case(
        "verify {run}",
        "base model llama: there is no folder {here}/model",
        given=without_its_model(),
    ),
    Case(
        "verify {run} --address ray://head:10001",
        "--address: no Ray cluster that accepts our token answers at ray://head:10001: ",
        given=finished(verified=False),
    ),
    Case(
        "verify {run}",
        "base model llama: {here}/model can't be loaded: ",
        given=without_its_model(broken=True),
    ),
    Case(
        "verify {run}",
        "base model llama: {model} has the digest ",
        given=finished(verified=False),
    ),
    Case(
        "verify {run}",
        "{here}/d.jsonl: No such file or directory",
        given=without_its_data(verified=False),
    ),
    Case(
        "verify {here}/program",
        "{here}/program/manifest.json is not JSON: ",
        given=lambda scene: [
            scene.file(f"program/{name}", "{")
            for name in ("manifest.json", "program.py", "payload.bin")
        ],
    ),
    Case(
        "verify {here}/program --model {model}",
        "{here}/program/program.py is not the file that the manifest describes",
        given=program(lambda scene, _: scene.file("program/program.py", "print('other')")),
    ),
    Case(
        "verify {here}/program",
        "--model: give the folder of the base model (llama)",
        given=program(),
    ),
    Case(
        "verify {here}/program --model {here}",
        "--model: {here} holds no model: config.json is missing",
        given=program(),
    ),
    Case(
        "verify {here}/program --model {here}/broken",
        "--model: {here}/broken can't be loaded: ",
        given=program(lambda scene, _: scene.file("broken/config.json", "{}")),
    ),
    Case(
        "verify {here}/program --model {model}",
        "--model: {model} is another base model: it has the digest ",
        given=program(base_digest="other"),
    ),
    Case(
        "verify {here}/program --model {model} --task {sweep}",
        "{here}/program/manifest.json: score: 'high' is not a number",
        given=program(lambda scene, _: scene.write_sweep(), score="high"),
    ),
]
SCORECARD = [
    Case(
        "scorecard {run} --battery {here}/none.yaml",
        "{here}/none.yaml: No such file",
        given=finished(),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "{here}/battery.yaml, line 1: unknown key 'taks'. Did you mean 'tasks'?",
        given=battery("taks: []\n"),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "{here}/battery.yaml, line 2: 'tasks.0.task.kind' is missing",
        given=battery("tasks:\n- task: {name: numbers}\n"),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "{here}/texts.txt: No such file or directory",
        given=battery("perplexity: {file: texts.txt}\n"),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "the battery has two items with the name 'numbers'",
        given=battery(SMALL.replace("]", f", {SMALL[8:-2]}]") + NOTHING_ELSE),
    ),
    Case("scorecard {run}", "rungs/x.a1.parquet: not a part of a ledger: ", given=damaged("rungs")),
    Case(
        "scorecard {run}",
        "{run}: no candidate has completed the last rung: there is no front",
        given=lambda scene: scene.begun(),
    ),
    Case(
        "scorecard {run}",
        "{run}: every program on its front runs without the model: none has side effects",
        given=lambda scene: scene.finished(family="constant"),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "{here}/d.jsonl: No such file or directory",
        given=without_its_data(verified=True, small=True),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "base model llama: there is no folder {here}/model",
        given=without_its_model(small=True),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "model can't be loaded: Unrecognized model in ",
        given=without_its_model(small=True, broken=True),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "base model llama: it has the digest ",
        given=battery(SMALL + NOTHING_ELSE),
    ),
    Case(
        "scorecard {run} --battery {here}/battery.yaml",
        "; recompute its rung by `kilobit resume {run}`",
        given=a_program_that_is_damaged,
    ),
]
PEOPLE = "judge: {kind: file, path: verdicts.jsonl}\n"
ANSWER = '{"id": "1", "input": "q", "output": "a"}\n'
OTHER = '{"id": "2", "input": "q", "output": "a"}\n'
COMPARE = "compare {here}/a.jsonl {here}/b.jsonl --judge {here}/judge.yaml"
JUDGES = [
    Case(COMPARE, "{here}/judge.yaml: No such file or directory"),
    Case(COMPARE, "judge.yaml, line 1: judge.kind must be one of", given=judge("judge: {kind: x}")),
    Case(COMPARE, "line 1: 'judge.kind' is missing; it is one of 'endp", given=judge("judge: {}")),
    Case(COMPARE, "{here}/a.jsonl: No such file or directory", given=judge(PEOPLE)),
    Case(COMPARE, "{here}/a.jsonl, line 1: not JSON: ", given=judge(PEOPLE, a="{\n", b=ANSWER)),
    Case(COMPARE, "{here}/a.jsonl: the file holds no lines", given=judge(PEOPLE, a="", b=ANSWER)),
    Case(
        COMPARE,
        "the first answers lack 1 of 1 prompts, the first is '2'; both have to answer the same",
        given=judge(PEOPLE, a=ANSWER, b=OTHER),
    ),
    Case(COMPARE, "verdicts.jsonl: No such file", given=judge(PEOPLE, a=ANSWER, b=ANSWER)),
    Case(
        COMPARE.replace("{here}/a.jsonl", "{run}:dead"),
        "{run}: no candidate begins with 'dead'; name exactly one",
        given=a_run_without_outputs,
    ),
    Case(
        COMPARE.replace("{here}/a.jsonl", "{run}:0123"),
        "{run}: {candidate} has no outputs on the search split",
        given=a_run_without_outputs,
    ),
]
SCORES = "compare {run}:0123 {run} --score"
NO_TASK = "can't be paired: the search split of one is of numbers (512 examples, exact_match), of"


def two_models(scene: Scene) -> None:
    """Make a run of two base models that has done nothing."""
    model = str(scene.models["llama"])
    scene.begun(base_models=[{"regime": label, "path": model} for label in ("one", "two")])


def a_folder(**about: Any) -> Any:
    """Return what makes a run and, beside it, the folder of a program of its task."""

    def given(scene: Scene) -> None:
        scene.finished()
        scene.program_folder(**about)

    return given


def another_task(scene: Scene) -> None:
    """Make two runs of different tasks."""
    scene.finished()
    scene.finished("other", task={"kind": "miniature", "name": "translation"})


def stopped_early(scene: Scene) -> None:
    """Make a run with outputs for fewer examples, beside one with more."""
    for name, number in (("run", 3), ("other", 4)):
        run = scene.finished(name)
        examples = load_task(run.sweep.task, run.sweep_folder).splits.search
        about = {"candidate": CANDIDATE, "rung": 0, "split": "search", "output": "x", "score": 0.0}
        rows = [about | {"example": example.id} for example in examples[:number]]
        write_rows(ledger_of(run), "predictions", f"{CANDIDATE}-r0", rows)


COMPARE_SCORES = [
    Case("compare a b", "give --judge FILE.yaml to compare answers, or --score to compare scores"),
    Case("compare a b --score --judge j", "--judge belongs to a judge: leave it out with --score"),
    Case("compare a b c --judge j", "more than two programs and --split need --score: a judge"),
    Case("compare {here}/none b --score", "{here}/none: there is no such run or program; give RUN"),
    Case("compare {run} {run} --score", "for each base model; name one, or", given=two_models),
    Case("compare {run} {run} --score", "{run}: no candidate has compl", given=Scene.begun),
    Case(SCORES.replace("0123", "dead"), "{run}: no candidate begins with 'd", given=finished()),
    Case(SCORES, "lacks: the data have changed since, or it is a program of a", given=finished()),
    Case(SCORES, "{here}/d.jsonl: No such file", given=without_its_data(verified=True)),
    Case(SCORES + " --split sealed", "has no outputs on the sealed split", given=finished()),
    Case("compare {run} {here}/other --score", NO_TASK, given=another_task),
    Case(
        "compare {run}:0123 {here}/other:0123 --score",
        "of 4, 3 of them the same",
        given=stopped_early,
    ),
    Case("compare {here}/program {run} --score", "the program is not verified", given=a_folder()),
    Case(
        "compare {here}/program {run} --score",
        "{here}/program has outputs for inputs that the search split of numbers lacks",
        given=a_folder(verified=True),
    ),
    Case(
        "compare {here}/program {run} --score --split sealed",
        "{here}/program has no outputs on the sealed split",
        given=a_folder(verified=True),
    ),
    Case(
        "compare {here}/program {here}/program --score",
        "none of the programs lies in a run, so it is not known how outputs are scored",
        given=a_folder(verified=True),
    ),
    Case(
        "compare {here}/program {run} --score",
        "{here}/program/manifest.json: format None, this version reads ",
        given=program(lambda scene, _: scene.file("program/manifest.json", "{}")),
    ),
]
EXPORT = "export {here}/program --peft {here}/peft --model {model}"
EXPORTS = [
    Case("scorecard s3://bucket/run", "s3://bucket/run: a local path is needed here"),
    Case(EXPORT, "{here}/program holds no program: "),
    Case(
        EXPORT, "{here}/program: the program has no adapter: there is nothing to", given=program()
    ),
    Case(
        EXPORT,
        "{here}/program/manifest.json: format None, this version reads ",
        given=program(lambda scene, _: scene.file("program/manifest.json", "{}")),
    ),
]
MODEL = [
    Case("model {here}/m.gguf {here}/m", "{here}/m.gguf: there is no such file"),
    Case(
        "model {here}/m.gguf {here}",
        "{here} is there already: give a folder without files",
        given=lambda scene: scene.file("m.gguf", "GGUF"),
    ),
    Case(
        "model {here}/m.gguf {here}/m",
        "{here}/m.gguf is not a GGUF file: it does not begin with GGUF",
        given=lambda scene: scene.file("m.gguf", "text"),
    ),
]
CASES = [*CERTIFY, *VERIFY, *SCORECARD, *JUDGES, *COMPARE_SCORES, *EXPORTS, *MODEL]
