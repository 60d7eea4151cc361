"""A program has the score that the harness gives it, on the same documents."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from benchmarks.oracles import run_program
from kilobit.evaluators.battery.battery import TaskEvaluator
from kilobit.evaluators.battery.harness import undisturbed
from kilobit.evaluators.model.adapted import with_program
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.proof.sandbox import Limits
from kilobit.evaluators.tasks.harness_task import HarnessTask
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.task import Task, split_digest
from tests.conftest import REPOSITORY, random_numbers
from tests.support.fresh_process import run_files
from tests.support.recipes import adapter_spec
from tests.support.tasks.harness_files import CHOOSE, GENERATE, write_task

MODEL = REPOSITORY / "examples" / "tiny" / "pretrained"
KINDS = {"words": GENERATE, "answers": CHOOSE}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tasks")
    for name, about in KINDS.items():
        write_task(found / name, name, about, 24 if name == "words" else 12)
    return found


@pytest.fixture(scope="module")
def frozen() -> FrozenModel:
    return load(BaseModelConfig(regime="tiny", path=MODEL), MODEL)


def task_of(folder: Path, name: str, **changes: Any) -> Task:
    settings = {"kind": "harness", "name": name, "include_path": ".", **changes}
    return load_task(HarnessTask.model_validate_json(json.dumps(settings), strict=True), folder)


def candidate_of(what: str, task: Task) -> Candidate:
    shown = tuple((e.input, e.target) for e in task.splits.train[:2])
    prompt = Prompt(instruction="Count.", demonstrations=shown) if what == "prompt" else Prompt()
    spec = adapter_spec("lora", target_modules=("q_proj",)) if what == "adapter" else None
    return Candidate(task=task.name, model="tiny", prompt=prompt, adapter=spec)


def by_the_harness(
    folder: Path, name: str, model: Any, frozen: FrozenModel, before: str
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the harness's own results by metric and filter, and the samples of its first filter.

    Its own model class asks the model; the prompt is the task's description.
    """
    with contextlib.chdir(folder / name), undisturbed():
        found = lm_eval.simple_evaluate(
            HFLM(pretrained=model, tokenizer=frozen.tokenizer, batch_size=3),
            tasks=[{**_settings(folder, name), "description": before, "fewshot_delimiter": ""}],
            num_fewshot=0,
            bootstrap_iters=0,
        )
    return found["results"][name], found["samples"][name]


def _settings(folder: Path, name: str) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return dict(manager.task_index[name].cfg or {})


@pytest.mark.parametrize("what", ["bare", "prompt", "adapter"])
@pytest.mark.parametrize(
    ("name", "metric", "chosen"),
    [
        ("words", "exact_match", "number"),
        ("answers", "acc_norm", "none"),
    ],
)
def test_a_program_has_the_score_of_the_harness(
    folder: Path, frozen: FrozenModel, name: str, metric: str, chosen: str, what: str
) -> None:
    task = task_of(folder, name, metric=metric, filter=chosen)
    candidate = candidate_of(what, task)
    config = BaseModelConfig(regime="tiny", path=MODEL)
    builder = Builder(frozen, config, task, 4, "program")
    texts = builder.code_text(candidate, by_model=False)
    examples = task.splits.sealed
    with contextlib.ExitStack() as stack:
        adapter, numbers, model = None, [], frozen.model
        if candidate.adapter is not None:
            adapter = stack.enter_context(installed(frozen, candidate.adapter))
            numbers, model = random_numbers(adapter), adapter.model
        program = builder.build(candidate, texts, adapter, numbers)
        decoded = builder.decode(program)
        if adapter is not None:
            adapter.assign(decoded.tensors, decoded.delta)
        inputs = [example.input for example in examples]
        outputs = run_program(program, decoded.prompt, frozen, model, inputs)
        results, _ = by_the_harness(folder, name, model, frozen, decoded.prompt)
    cut = [task.cut(output) for output in outputs]
    score = task.metric.corpus(cut, examples).score
    assert score == pytest.approx(results[f"{metric},{chosen}"], abs=1e-12)
    if what != "adapter":
        assert 0 < score < 1
    # The two files say the same, in a process without this package.
    printed = run_files(program.script, program.payload, MODEL, inputs, Limits(seconds=240))
    assert [task.cut(text) for text in printed] == cut
    # So does a scorecard, which reads all answers in shared passes.
    with with_program(frozen, candidate, program, task) as subject:
        rows = TaskEvaluator(task, 6).evaluate(subject)
    if adapter is None:
        inputs = [example.input for example in task.splits.search[:6]]
        said = run_program(program, decoded.prompt, frozen, frozen.model, inputs)
        assert [row.output for row in rows] == [task.cut(one) for one in said]


def test_scores_are_those_of_single_documents_too(folder: Path, frozen: FrozenModel) -> None:
    task = task_of(folder, "answers")
    builder = Builder(frozen, BaseModelConfig(regime="tiny", path=MODEL), task, 4, "program")
    program = builder.build(Candidate(task="answers", model="tiny"), {}, None, [])
    outputs = run_program(
        program, "", frozen, frozen.model, [example.input for example in task.splits.sealed]
    )
    _, samples = by_the_harness(folder, "answers", frozen.model, frozen, "")
    theirs = {sample["doc"]["question"]: sample["acc"] for sample in samples}
    for example, output in zip(task.splits.sealed, outputs, strict=True):
        document = json.loads(example.extra["document"])
        assert task.metric.per_example(output, example) == theirs[document["question"]]
        assert output in document["answers"]
    assert task.metric.per_example("none of them", task.splits.sealed[0]) == 0


def test_splits_are_those_of_the_task(folder: Path) -> None:
    task = task_of(folder, "answers")
    lengths = [len(getattr(task.splits, name)) for name in ("train", "search", "sealed")]
    assert lengths == [12, 12, 12]
    example = task.splits.train[0]
    assert example.input == example.question
    assert task.ask(example.input) + task.show(example.target) == (
        f"{example.input}{example.target}\n"
    )
    assert all(len(e.input.split("\x1e")) == 4 for e in task.splits.search)


def test_a_split_that_is_not_there_is_held_back_or_asked_for(tmp_path: Path) -> None:
    write_task(tmp_path, "short", GENERATE, test_split=None)
    splits = task_of(tmp_path, "short", search_share=0.5).splits
    assert len(splits.sealed) == 24
    assert len(splits.train) + len(splits.search) == 24
    assert 4 < len(splits.search) < 20
    write_task(tmp_path, "one", CHOOSE, training_split=None, validation_split=None)
    with pytest.raises(ValueError, match="it has test_split 'test'; give `fractions`"):
        task_of(tmp_path, "one")
    splits = task_of(tmp_path, "one", fractions={"search": 0.3, "sealed": 0.3}).splits
    assert sum(map(len, (splits.train, splits.search, splits.sealed))) == 24
    assert all(e.input == e.question for e in splits.train)
    write_task(tmp_path, "whole", GENERATE)
    with pytest.raises(ValueError, match="has the validation split 'validation'"):
        task_of(tmp_path, "whole", search_share=0.5)


def test_a_question_of_a_later_split_is_in_no_earlier_one(tmp_path: Path) -> None:
    write_task(tmp_path, "double", CHOOSE)
    test = (tmp_path / "test.jsonl").read_text("utf-8").splitlines()
    row = {**json.loads(test[0]), "answers": ["1", "2", "3"], "gold": 0}
    for split in ("train", "validation"):
        path = tmp_path / f"{split}.jsonl"
        path.write_text(path.read_text("utf-8") + json.dumps(row) + "\n", "utf-8")
    splits = task_of(tmp_path, "double").splits
    assert [len(splits.train), len(splits.search), len(splits.sealed)] == [24, 24, 24]


def test_the_data_and_the_rule_are_in_the_digest_of_a_split(tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        write_task(tmp_path, "words", GENERATE, **changes)
        task = task_of(tmp_path, "words")
        return split_digest(task.splits.sealed, task.metric)

    one = digest()
    assert digest() == one
    metric = {**GENERATE["metric_list"][0], "ignore_case": True}
    assert digest(metric_list=[metric]) != one
    assert digest(doc_to_text="{{question}}") != one


def test_code_of_a_task_file_runs_only_if_the_user_says_so(tmp_path: Path) -> None:
    write_task(tmp_path, "coded", GENERATE)
    path = tmp_path / "coded.yaml"
    (tmp_path / "own.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
        "def fewer(documents):\n    return documents.select(range(10))\n"
    )
    path.write_text(path.read_text() + "process_docs: !function own.fewer\n")
    with pytest.raises(ValueError, match=r"coded.yaml: !function own.fewer: .*trust_task_code"):
        task_of(tmp_path, "coded")
    (tmp_path / "outer.yaml").write_text("include: coded.yaml\ntask: outer\n")
    with pytest.raises(ValueError, match=r"coded.yaml: !function own.fewer"):
        task_of(tmp_path, "outer")
    assert not (tmp_path / "ran").exists()
    assert len(task_of(tmp_path, "coded", trust_task_code=True).splits.sealed) == 10
    assert (tmp_path / "ran").exists()


def test_a_template_reaches_nothing_but_its_document(tmp_path: Path) -> None:
    reach = "{{ ''.__class__.__mro__[1].__subclasses__() | length }}"
    write_task(tmp_path, "reaching", GENERATE, doc_to_text=reach)
    with pytest.raises(ValueError, match=r"task reaching: .*__class__"):
        task_of(tmp_path, "reaching")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_type": "loglikelihood"}, "`output_type: loglikelihood` is none of"),
        ({"repeats": 2}, "several answers"),
        ({"generation_kwargs": {"until": ["\n"], "do_sample": True}}, "programs generate greedily"),
        ({"metric_list": [{"metric": "bleu"}]}, "it has bleu, usable are none"),
        ({"doc_to_target": "  "}, "split 'test', document 0: the target is empty"),
        ({"doc_to_text": "{{missing}}"}, "'missing' is undefined"),
        ({"dataset_path": "./nowhere"}, "broken"),
    ],
)
def test_what_can_not_be_searched_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_task(tmp_path, "broken", GENERATE, **changes)
    with pytest.raises(ValueError, match=message):
        task_of(tmp_path, "broken")


def test_what_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'answer' is no task of the harness in .*answers"):
        task_of(folder, "answer")
    with pytest.raises(ValueError, match="there is no folder"):
        task_of(folder, "answers", include_path="nowhere")
    with pytest.raises(ValueError, match="has no filter 'last', only number, whole"):
        task_of(folder, "words", filter="last")
    with pytest.raises(ValueError, match=r"metric: 'f1' of answers is no mean.*usable are acc"):
        task_of(folder, "answers", metric="f1")
