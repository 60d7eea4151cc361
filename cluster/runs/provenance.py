"""Provenance of results: versions, hardware, digests of base models, attempts and commands."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from kilobit.cluster.runs.result_sources import Source
from kilobit.evaluators.report.contents import Origin
from kilobit.search.records import WorkerRecord


def origin_of(source: Source) -> Origin:
    """Return the facts needed to reproduce the results of a source.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
    """
    about = source.about
    workers = WorkerRecord.all_of(source.read("workers"))
    return Origin(
        run=source.name,
        folder=str(source.place),
        facts=_facts(source, workers),
        attempts=[_attempt(each) for each in about.get("attempts", ())],
        models=_models(source, workers),
        versions=_versions(about, workers),
        sweep=json.dumps(about.get("sweep"), indent=1, ensure_ascii=False),
    )


def _facts(source: Source, workers: list[WorkerRecord]) -> list[tuple[str, str]]:
    about = source.about
    machine = about.get("machine") or {}
    (unjudged,) = source.read("rungs", ["num_unjudged"]).columns
    hosts = sorted({one.host for one in workers if one.host})
    facts = {
        "begun": about.get("created_at"),
        "sweep file": about.get("sweep_file"),
        "seed": source.sweep.seed,
        "driver": ", ".join(
            str(part)
            for part in (
                machine.get("processor"),
                f"{machine['cores']} cores" if machine.get("cores") else None,
                f"Python {about['python']}" if about.get("python") else None,
            )
            if part
        ),
        "workers": f"{len(workers)} model loads on {_list(hosts) or 'unknown hosts'}",
        "verified on": "; ".join(_verified_on(source)),
        "outputs without a verdict of the judge": pc.sum(unjudged).as_py() or None,
        "ledger schema": about.get("ledger_schema"),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _list(names: list[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _verified_on(source: Source) -> list[str]:
    """Return the environments in which programs were verified: device, dtype and machine."""
    found = source.read("verifications", ["verified_on"])["verified_on"]
    environments = set()
    for text in pc.drop_null(found).unique().to_pylist():
        on = _object(text)
        words = (on.get("device"), on.get("dtype"), on.get("machine"))
        environments.add(", ".join(str(word) for word in words if word))
    return sorted(environments - {""})


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attempt's start time, host and command, the command quoted for a shell."""
    words = [str(word) for word in attempt.get("command", ())]
    name = Path(words[0]).name if words else ""
    if name.endswith(".py"):
        words = ["python", *words]
    elif name == "kilobit":
        words = [name, *words[1:]]
    return {
        "attempt": attempt.get("attempt"),
        "started_at": attempt.get("started_at"),
        "host": attempt.get("host"),
        "command": shlex.join(words),
    }


def _models(source: Source, workers: list[WorkerRecord]) -> list[dict[str, Any]]:
    """Return the facts of each base model; several digests mean that its weights differed."""
    models = []
    for config in source.sweep.base_models:
        own = [one for one in workers if one.model == config.label]
        where = str(config.path) if config.path is not None else str(config.hub)
        models.append(
            {
                "model": config.label,
                "regime": config.regime,
                "from": where + (f" at {config.revision}" if config.revision else ""),
                "weights": config.weights,
                "dtype": config.dtype,
                "device": config.device,
                "parameters": max((one.num_parameters or 0 for one in own), default=0) or None,
                "digests": sorted({one.base_digest for one in own if one.base_digest}),
            }
        )
    return models


def _versions(about: Mapping[str, Any], workers: list[WorkerRecord]) -> dict[str, str]:
    """Return the versions of libraries, including those on workers that differ."""
    found = {name: {str(version)} for name, version in (about.get("versions") or {}).items()}
    for text in {one.versions for one in workers if one.versions}:
        for name, version in _object(text).items():
            found.setdefault(name, set()).add(str(version))
    return {name: ", ".join(sorted(each)) for name, each in found.items()}


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
