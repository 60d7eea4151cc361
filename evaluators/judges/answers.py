"""Files of answers, prompts and human verdicts: JSON Lines, with errors that name file and line.

A line of answers is an object with `id`, `output` and, unless a file of prompts has it, `input`;
or it is a plain string, as program.py prints one: then its id is the number of its line. A line of
prompts is an object with `id` and `input`, or a plain string, as program.py reads one.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from kilobit.evaluators.judges.preference import Judged, Outcome, Pair
from kilobit.evaluators.text_files import json_lines

_OUTCOMES: dict[str, Outcome] = {name: name for name in get_args(Outcome)} | {
    "A": "win",
    "B": "loss",
}


@dataclass(frozen=True)
class Answer:
    """An answer to a prompt with its file and line; `input` is None if the file lacks it."""

    input: str | None
    output: str
    where: str


def _records(path: Path, field: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield location, id and record of each line; a plain string becomes the field `field`."""
    seen: dict[str, str] = {}
    for where, value in json_lines(path):
        text_only = isinstance(value, str)
        record = {"id": where.rpartition(" ")[2], field: value} if text_only else value
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise ValueError(f"{where}: a JSON object is needed, found a {kind}")
        name = record.get("id")
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise ValueError(f"{where}: `id` must be a text or a whole number, found {name!r:.60}")
        other = seen.setdefault(str(name), where)
        if other != where:
            raise ValueError(f"{where}: the id {str(name)!r:.60} is also used by {other}")
        yield where, str(name), record
    if not seen:
        raise ValueError(f"{path}: the file holds no lines")


def _text(record: Mapping[str, Any], field: str, where: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        shown = "nothing" if field not in record else repr(value)[:60]
        raise ValueError(
            f"{where}: `{field}` must be a text, found {shown}; the line has the keys "
            f"{sorted(record)}"
        )
    return value


def read_answers(path: Path) -> dict[str, Answer]:
    """Return the answers of a file by id; an empty answer counts.

    Raises:
        ValueError: with file and line.
    """
    return {
        name: Answer(
            _text(record, "input", where) if "input" in record else None,
            _text(record, "output", where),
            where,
        )
        for where, name, record in _records(path, "output")
    }


def read_prompts(path: Path) -> dict[str, str]:
    """Return the inputs of a file by id.

    Raises:
        ValueError: with file and line.
    """
    return {name: _text(record, "input", where) for where, name, record in _records(path, "input")}


def pair_answers(
    one: Mapping[str, Answer], two: Mapping[str, Answer], prompts: Mapping[str, str] | None
) -> list[Pair]:
    """Return both answers to each prompt, in the order of `prompts`, else of `one`.

    With `prompts` only these are compared, and both have to answer all of them.

    Raises:
        ValueError: if an answer is missing, or the inputs of an id differ.
    """
    for theirs, others, which in ((one, two, "first"), (two, one, "second")):
        wanted: Collection[str] = others if prompts is None else prompts
        missing = [name for name in wanted if name not in theirs]
        if missing:
            raise ValueError(
                f"the {which} answers lack {len(missing)} of {len(wanted)} prompts, the first is "
                f"{missing[0]!r:.60}; both have to answer the same prompts"
            )
    names = one if prompts is None else prompts
    return [_pair(name, one[name], two[name], prompts) for name in names]


def _pair(name: str, one: Answer, two: Answer, prompts: Mapping[str, str] | None) -> Pair:
    asked = [
        (prompts[name], "the file of prompts") if prompts is not None else (None, ""),
        (one.input, one.where),
        (two.input, two.where),
    ]
    said = [(text, where) for text, where in asked if text is not None]
    if not said:
        raise ValueError(f"{one.where}: no file has the `input` of {name!r:.60}: give --prompts")
    for text, where in said[1:]:
        if text != said[0][0]:
            raise ValueError(
                f"{where}: the input of {name!r:.60} differs from that of {said[0][1]}"
            )
    return Pair(name, said[0][0], one.output, two.output)


def read_verdicts(path: Path, pairs: Sequence[Pair]) -> list[Judged]:
    """Return the verdict on each pair from a file of human verdicts.

    A line holds `id` and `verdict`: win, tie or loss of the first program, or A (the first), B (the
    second) or tie. The verdicts are final: whoever collects them has to show both orders.

    Raises:
        ValueError: with file and line, also if no prompt has the id of a verdict.
    """
    names = {pair.id for pair in pairs}
    found: dict[str, Outcome] = {}
    for where, name, record in _records(path, "verdict"):
        if name not in names:
            raise ValueError(f"{where}: no prompt has the id {name!r:.60}")
        verdict = record.get("verdict")
        outcome = _OUTCOMES.get(verdict) if isinstance(verdict, str) else None
        if outcome is None:
            raise ValueError(
                f"{where}: `verdict` must be one of {', '.join(_OUTCOMES)}, found {verdict!r:.60}"
            )
        found[name] = outcome
    return [
        Judged(pair.id, found[pair.id])
        if pair.id in found
        else Judged(pair.id, None, reason=f"{path} has no verdict on it")
        for pair in pairs
    ]
