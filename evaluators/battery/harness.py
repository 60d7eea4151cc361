"""The lm-evaluation-harness on a resident base model, bare or with a program on it.

The harness asks for log-likelihoods of continuations, of whole texts, and for greedy generations;
`HarnessModel` answers with the engine that scores candidates, on the model already loaded.
For a bare model the documents, their tokens and the numbers are those of the harness's own `hf`
model, up to the order of float sums. A generation ends at its stop strings as in the search: unlike
in `hf`, a stop string that begins within the question counts.

With a program, its prompt stands before the context of each request
(`kilobit.evaluators.model.adapted`). A request that then does not fit is an error; for a bare model
its beginning is cut off, as `hf` does.

It can run in a Ray driver: no seed or setting stays changed for other code of the process, and
nothing is fetched.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import numpy as np
import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text

from kilobit.evaluators.battery.battery import Better, Model, Row
from kilobit.evaluators.model.adapted import AdaptedModel
from kilobit.evaluators.model.packing.decode import Asked
from kilobit.evaluators.tasks.harness_task import check_code, manager_of, quiet
from kilobit.evaluators.tasks.sources import offline, patched
from kilobit.search.settings import reason_of

_CONTEXT = 2048
_GREEDY = ("until", "max_gen_toks", "do_sample", "temperature")
Request = Any
"""An `Instance` of the harness; only its `args` are read."""


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """The model interface of the harness on a resident base model.

    Args:
        subject: the resident model, bare or with a program on it.
    """

    def __init__(self, subject: AdaptedModel) -> None:
        super().__init__()
        self._subject, self.tokenizer = subject, subject.frozen.tokenizer

    @property
    def eot_token_id(self) -> int:
        """Return the end token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Return the token before a text without context: the begin token, else the end token."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """Return the longest sequence in tokens that the model reads after its soft prompt."""
        return (self._subject.frozen.context or _CONTEXT) - self._subject.num_soft

    @property
    def tokenizer_name(self) -> str:
        """Return the tokenizer's name, for the harness's caches."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Return the tokens of a text, with special tokens unless the text begins with them."""
        if add_special_tokens is None:
            begins = has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
            add_special_tokens = not begins
        return self._subject.encode(string, special=add_special_tokens)

    def loglikelihood(
        self, requests: list[Request], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return for each (context, continuation) its log-probability and whether it is greedy.

        Raises:
            ValueError: if a request with the program's prompt does not fit into the context.
        """
        rows = []
        for context, continuation in (request.args for request in requests):
            whole = self._subject.text(context)
            if whole:
                pair = self._encode_pair(whole, continuation)
            else:
                ids = self.tok_encode(continuation, add_special_tokens=False)
                same = ids[0] == self.prefix_token_id
                pair = (ids[:1], ids[1:]) if same else ([self.prefix_token_id], ids)
            rows.append(((context, continuation), *pair))
        return self._loglikelihood_tokens(rows)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        rows = []
        for _name, before, new in requests:
            # The harness fills the context; the last token is predicted and need not be read.
            over = len(before) + len(new) - (self.max_length + 1)
            if over > 0 and not self._subject.is_bare:
                raise ValueError(
                    f"with the program's prompt a request has {over} tokens more than the model "
                    f"reads ({self.max_length})"
                )
            rows.append((tuple(before[max(0, over) :]), tuple(new)))
        return self._subject.judged(rows)

    def loglikelihood_rolling(
        self, requests: list[Request], disable_tqdm: bool = True
    ) -> list[float]:
        """Return the log-probability of each whole text, read window after window.

        The program's prompt, without a chat template, stands before each window.
        """
        prompt = self._subject.encode(self._subject.prompt, special=False)
        size = self.max_length - len(prompt)
        if size < 1:
            raise ValueError(f"the program's prompt fills the context of {self.max_length} tokens")
        rows, owner = [], []
        for position, (text,) in enumerate(request.args for request in requests):
            ids = self.tok_encode(text)
            windows = utils.get_rolling_token_windows(ids, self.prefix_token_id, size, 1)
            for first, (before, new) in enumerate(map(utils.make_disjoint_window, windows)):
                # The first token of a text stays first, before the prompt.
                lead = [*before[:1], *prompt, *before[1:]] if not first else [*prompt, *before]
                rows.append((tuple(lead), tuple(new)))
                owner.append(position)
        found = [0.0] * len(requests)
        for position, (nats, _) in zip(owner, self._subject.judged(rows), strict=True):
            found[position] += nats
        return found

    def generate_until(self, requests: list[Request], disable_tqdm: bool = True) -> list[str]:
        """Return greedy continuations up to their stop strings.

        Raises:
            ValueError: if a task asks for sampling, or a request with the program's prompt does not
                fit into the context.
        """
        found = [""] * len(requests)
        kinds: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for position, (_, options) in enumerate(request.args for request in requests):
            kinds.setdefault(self._limits(options), []).append(position)
        end = self.tokenizer.decode(self.eot_token_id)
        for (most, until), positions in kinds.items():
            texts = [self._subject.text(requests[position].args[0]) for position in positions]
            texts = self._subject.thought(texts)
            ids = [self._cut(text, most) for text in texts]
            stop = (*until, end) if end else until
            for position, text in zip(positions, self._continued(ids, most, stop), strict=True):
                found[position] = postprocess_generated_text(text, list(stop), None)
        return found

    def _limits(self, options: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """Return the longest answer and the stop strings that a request asks for."""
        known = normalize_gen_kwargs(options, 256)
        unknown = set(known) - set(_GREEDY)
        if known.get("do_sample") or known.get("temperature") or unknown:
            raise ValueError(f"only greedy generation is supported, the task asks for {options}")
        return int(known["max_gen_toks"]), tuple(filter(None, known["until"]))

    def _cut(self, text: str, most: int) -> list[int]:
        ids = self.tok_encode(text)
        room = self.max_length - most
        if room < 1 or (len(ids) > room and not self._subject.is_bare):
            raise ValueError(
                f"{len(ids)} tokens and an answer of {most} do not fit into the model's context "
                f"of {self.max_length} tokens"
            )
        return ids[-room:]

    def _continued(self, ids: list[list[int]], most: int, stop: tuple[str, ...]) -> list[str]:
        soft = self._subject.soft
        rows = [Asked(0, (*soft, *one), most, stop) for one in ids]
        return self._subject.continued_rows(rows)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Isolate the harness from other code: no downloads, no output, no seeds.

    Log levels and random states of the process are restored at the end.
    """
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - restored below
    with offline(), quiet(), torch.random.fork_rng(), patched(_PATCHED):
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)  # noqa: NPY002 - see above


_PATCHED = [(lm_eval.api.task, "tqdm", partial(lm_eval.api.task.tqdm, disable=True))]


class HarnessEvaluator:
    """Evaluator of a task or group of the harness.

    Args:
        name: of the task or group in the harness.
        metric: a metric that the task reports for every document, for example `acc`.
        num_examples: number of documents of each task, from its first on.
        include: a folder with custom tasks, used instead of those of the harness.
        better: whether higher or lower values of the metric are better.
        trusted: run the functions that custom task files name.

    Raises:
        ValueError: if there is no such task, its data are not on this machine, or custom task files
            run code and are not trusted.
    """

    def __init__(
        self,
        name: str,
        metric: str,
        num_examples: int,
        include: Path | None = None,
        better: Better = "higher",
        *,
        trusted: bool = False,
    ) -> None:
        self.name, self.better = name, better
        self._metric, self._num_examples = metric, num_examples
        manager = manager_of(name, include)
        if name not in manager.all_tasks:
            raise ValueError(
                f"{name} is not a task of the harness{f' in {include}' if include else ''}"
            )
        if include is not None and not trusted:
            for entry in manager.task_index.values():
                if entry.yaml_path is not None:
                    check_code(entry.yaml_path)
        with undisturbed():
            try:
                # Read the data now, so that missing data are reported before a model runs.
                self._loaded = manager.load([name])
            except Exception as error:  # the harness and its data readers raise many types
                raise ValueError(
                    f"{name} is not on this machine: {reason_of(error)}; with a network "
                    f"`lm-eval run --model dummy --tasks {name} --limit 1` puts its data into the "
                    f"cache, which is {datasets.config.HF_DATASETS_CACHE} here (HF_HOME or "
                    "HF_DATASETS_CACHE)"
                ) from error

    def evaluate(self, model: Model) -> list[Row]:
        """Return the metric of each document.

        Raises:
            ValueError: if the task has no such metric.
        """
        assert isinstance(model, AdaptedModel)
        found = run_harness(model, self._loaded, self._num_examples)
        rows = []
        for task, documents in sorted(found["samples"].items()):
            # A task with several filters has a sample for each: its first one counts.
            for document in (d for d in documents if d["filter"] == documents[0]["filter"]):
                value = document.get(self._metric)
                if not isinstance(value, int | float):
                    raise ValueError(
                        f"{task} has no metric {self._metric} for each document: it has "
                        f"{document['metrics']}"
                    )
                rows.append(Row(self.name, f"{task}-{document['doc_id']}", float(value)))
        return rows


def run_harness(
    subject: AdaptedModel, loaded: dict[str, Any], num_examples: int | None = None
) -> dict[str, Any]:
    """Return the result of the harness's `evaluate` for a resident model.

    The settings are those of its `simple_evaluate`, which would also inspect the whole environment
    for each model.

    Args:
        subject: the model, bare or with a program on it.
        loaded: tasks as `TaskManager.load` returns them; they can be used again.
        num_examples: documents of each task, all by default.
    """
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        # This seed draws the demonstrations: every model gets the same ones.
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    with undisturbed():
        found: dict[str, Any] = evaluate(
            HarnessModel(subject), loaded, limit=num_examples, bootstrap_iters=0
        )
    return found
