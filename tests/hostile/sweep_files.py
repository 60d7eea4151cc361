"""Hostile sweep files, overrides and profiles."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.hostile.case import SWEEP, Case, Maker, Place, cases

GOOD = yaml.safe_dump(SWEEP)
TOUCH = "!!python/object/apply:os.system ['touch executed']"


def text(content: str | bytes) -> Maker:
    """Return what writes a sweep file of this content."""

    def make(place: Place) -> list[str]:
        place.file("s.yaml", content)
        return ["run", "s.yaml", "--dry-run"]

    return make


def added(more: str) -> Maker:
    """Return what adds lines to a sweep file without a mistake."""
    return text(GOOD + more)


def changed(**changes: Any) -> Maker:
    """Return what writes a sweep file with changes."""
    return lambda place: place.sweep(**changes)


def override(*words: str) -> Maker:
    """Return what changes a sweep file by overrides."""
    return lambda place: [*place.sweep(), *words]


def special(create: Callable[[Path], object]) -> Maker:
    """Return what names a file that is no regular one."""

    def make(place: Place) -> list[str]:
        create(place.here / "s.yaml")
        return ["run", "s.yaml", "--dry-run"]

    return make


def bound_socket(path: Path) -> None:
    """Create a socket, by a short path."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as found:
            found.bind(path.name)
    finally:
        os.chdir(here)


def link_loop(path: Path) -> None:
    """Create two links that point at each other."""
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


def profile(kind: str, content: str | bytes) -> Maker:
    """Return what prints a job's script by a profile of this content."""

    def make(place: Place) -> list[str]:
        place.sweep()
        place.file("p.yaml", content)
        return [kind, "sweep.yaml", "--profile", "p.yaml", "--print"]

    return make


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
SYNTAX = {
    "open brackets": text("[" * 20_000),
    "open braces": text("{" * 20_000),
    "brackets that are closed": text("name: " + "[" * 5000 + "]" * 5000),
    "dashes nested by indentation": text("".join(" " * 2 * i + "-\n" for i in range(700))),
    "dashes in one line": text("- " * 20_000 + "x"),
    "mappings nested by indentation": text("".join(" " * i + "a:\n" for i in range(1400))),
    "question marks in one line": text("? " * 20_000 + "x"),
    "alias of itself": added("targets: &a [*a]\n"),
    "merge key of itself": added("budget: &a\n  <<: *a\n"),
    "alias bomb": text(BOMB),
    "alias that is not there": added("seed: *nowhere\n"),
    "!!python/object/apply": added(f"targets: {TOUCH}\n"),
    "!!python/name": added("seed: !!python/name:os.system\n"),
    "!!python/module": added("seed: !!python/module:antigravity\n"),
    "!!bool maybe": added("seed: !!bool maybe\n"),
    "!!timestamp abc": added("seed: !!timestamp abc\n"),
    "!!int of nothing": added('seed: !!int ""\n'),
    "!!float of words": added("seed: !!float abc\n"),
    "!!binary that is none": added("seed: !!binary '%%%'\n"),
    "!!set and !!omap": added("targets: !!omap [a: 1, a: 2]\n"),
    "a tag of a %TAG line": text("%TAG ! tag:evil.example,2026:\n---\nname: !x y\n"),
    "a %YAML line of version 9": text("%YAML 9.9\n---\nname: x\n"),
    "two documents": text(GOOD + "---\n" + GOOD),
    "nothing": text(""),
    "a million comments": text("#\n" * 500_000),
    "one line of a megabyte": text("name: " + "x" * 1_000_000),
    "a file of 3 MB": text("name: " + "x" * 3_000_000),
    "100,000 keys": text("".join(f"k{i}: 1\n" for i in range(60_000))),
    "a key of 100,000 letters": text("x" * 100_000 + ": 1\n"),
    "a list as a key": added("[1, 2]: 3\n"),
    "a mapping as a key": added("{a: b}: 3\n"),
    "a key of another type": added("null: 3\n"),
    "a key twice": added("name: other\n"),
    "a key twice deep down": added("budget: {seconds: 5, seconds: 6}\n"),
    "a number of 5,000 digits": added("seed: " + "9" * 5000 + "\n"),
    "a hexadecimal number of 5,000 digits": added("seed: 0x" + "f" * 5000 + "\n"),
    "a binary number of 5,000 digits": added("seed: 0b" + "1" * 5000 + "\n"),
    "underscores alone as a number": added("seed: 0x_\n"),
    "an exponent of nine digits": added("seed: 1e999999999\n"),
    "UTF-16": text(GOOD.encode("utf-16")),
    "UTF-32": text(GOOD.encode("utf-32")),
    "Latin-1": text(b"name: \xe4\xf6\n"),
    "a mark of order in the middle": added("\ufeffseed: 1\n"),
    "NUL": text("name: a\0b\n"),
    "an escape sequence": added("seed: \x1b]0;owned\x07\n"),
    "an escaped escape sequence": added('seed: "\\e]0;owned\\a\\e[2J"\n'),
    "an escaped escape sequence as a key": added('"\\e[2J\\u202e": 1\n'),
    "half of a surrogate pair": text(b"name: \xed\xa0\x80\n"),
    "an escaped half of a surrogate pair": added('seed: "\\ud800"\n'),
    "an escape of no letter": added('seed: "\\UFFFFFFFF"\n'),
    "a tab for indentation": text("name:\n\tx: 1\n"),
    "a link loop": special(link_loop),
    "a pipe": special(os.mkfifo),
    "a socket": special(bound_socket),
    "a folder": special(Path.mkdir),
    "/dev/zero": special(lambda path: path.symlink_to("/dev/zero")),
    "/dev/tty": special(lambda path: path.symlink_to("/dev/tty")),
    "/proc/self/mem": special(lambda path: path.symlink_to("/proc/self/mem")),
    "a terabyte of zeros": lambda place: ["run", str(place.sparse("s.yaml", 1 << 40)), "--dry-run"],
    "a name of 5,000 letters": lambda _: ["run", "x" * 5000 + ".yaml"],
    "an empty name": lambda _: ["run", ""],
    "a name with an escape sequence": lambda _: ["run", "\x1b[2J\x9b.yaml"],
    "a name with a line end": lambda _: ["run", "a\nkilobit: all is well\n.yaml"],
}
VALUES = {
    "NaN as a target": changed(targets=[float("nan")]),
    "infinity as a budget": changed(budget={"seconds": float("inf")}),
    "10^20 threads": changed(workers={"threads": 10**20}),
    "10^20 examples": changed(rungs={"examples": 10**20}),
    "10^9 rungs": changed(rungs={"examples": 18, "count": 10**9}),
    "10^9 rungs that grow by 10^9": changed(rungs={"examples": 1, "count": 10**9, "eta": 10**9}),
    "10^18 candidates": changed(families={"prompt": {"candidates": 10**18}}),
    "10^9 candidates": changed(families={"prompt": {"candidates": 10**9}}),
    "10^9 demonstrations": changed(
        families={"prompt": {"candidates": 2, "demonstrations": [10**9]}}
    ),
    "10^9 generated examples": changed(
        task={"kind": "miniature", "name": "numbers", "train_examples": 10**9}
    ),
    "a rank of 10^9": changed(
        families={"lora": {"candidates": 2, "rank": [10**9], "target_modules": [["q_proj"]]}}
    ),
    "a module that is a heavy pattern": changed(
        families={"lora": {"candidates": 2, "rank": [1], "target_modules": [["(a+)+$" * 20]]}}
    ),
    "a learning rate of 10^300": changed(
        families={
            "lora": {
                "candidates": 2,
                "rank": [1],
                "target_modules": [["q_proj"]],
                "learning_rate": {"low": 1e-300, "high": 1e300},
                "optimizer": "x" * 10_000,
            }
        }
    ),
    "a negative seed": changed(seed=-(10**30)),
    "a name with a slash": changed(name="../../etc/cron.d/x"),
    "a name that is a command": changed(name="$(touch executed)"),
    "a name with a line end": changed(name="a\nb: `touch executed`"),
    "a name of 10,000 letters": changed(name="x" * 10_000),
    "a name of points": changed(name=".."),
    "a label with a slash": changed(base_models=[{"regime": "../x", "path": "."}]),
    "a label that is a command": changed(
        base_models=[{"regime": "$(touch executed)", "path": "."}]
    ),
    "a label of markup": changed(base_models=[{"regime": "<script>x</script>", "path": "."}]),
    "a path with NUL": changed(base_models=[{"regime": "r", "path": "a\0b"}]),
    "a path of 5,000 letters": changed(base_models=[{"regime": "r", "path": "x/" * 2500}]),
    "a hub name that is a URL": changed(base_models=[{"regime": "r", "hub": "http://evil.example/x"}]),
    "a hub name that leaves the cache": changed(base_models=[{"regime": "r", "hub": "../x"}]),
    "a revision that leaves the cache": changed(
        base_models=[{"regime": "r", "hub": "a/b", "revision": "../../../../etc"}]
    ),
    "3,000 base models": changed(
        base_models=[{"regime": f"r{i}", "path": "nowhere"} for i in range(3000)]
    ),
    "a question that asks for an attribute": changed(
        task={
            "kind": "jsonl", "name": "x", "metric": "exact_match", "data": "d.jsonl",
            "question": "{input.__class__.__init__.__globals__}",
        }
    ),
    "a question of a huge width": changed(
        task={
            "kind": "jsonl", "name": "x", "metric": "exact_match", "data": "d.jsonl",
            "question": "{input:>9999999999}",
        }
    ),
    "an unknown type of everything": changed(**{key: [[["x"]]] for key in SWEEP}),
    "a tracker of a URL with a password": changed(
        trackers=[{"kind": "mlflow", "uri": "http://me:sesame@127.0.0.1:9/"}]
    ),
    "a cache that is a device": changed(cache="/dev/full"),
    "a store that is none": changed(cache="ftp://evil.example/x"),
    "an operator of another package": changed(
        proposer={"kind": "evolution", "operators": ["os:system"]}
    ),
}  # fmt: skip
OVERRIDES = {
    "brackets": override("targets=" + "[" * 20_000),
    "an alias of itself": override("targets=&a [*a]"),
    "a tag of Python": override(f"seed={TOUCH}"),
    "!!timestamp abc": override("seed=!!timestamp abc"),
    "!!bool maybe": override("seed=!!bool maybe"),
    "a key twice": override("budget={seconds: 5, seconds: 6}"),
    "5,000 keys deep": override(".".join(["a"] * 5000) + "=1"),
    "100,000 letters": override("name=" + "x" * 100_000),
    "100,000 letters in quotes": override("seed='" + "x" * 100_000 + "'"),
    "a dunder": override("__class__.__init__=1"),
    "no key": override("=1"),
    "points as a key": override("...=1"),
    "two documents": override("seed=1\n---\n2"),
    "a line end": override("seed=1\nname: x"),
    "U+2028": override("seed=\u2028"),
    "an escape sequence": override("seed=\x1b[2J"),
    "an escaped escape sequence": override('seed="\\e[2J"'),
    "an escape sequence as a key": override("\x1b[2J=1"),
    "half of a surrogate pair": override('name="\\ud800"'),
    "a number of 5,000 digits": override("seed=" + "9" * 5000),
    "an index": override("base_models.0.path=/etc"),
}
PROFILES = {
    "slurm: a tag": profile("slurm", f"partition: {TOUCH}\n"),
    "slurm: a line end": profile("slurm", 'partition: "x\\n#SBATCH --wrap=touch executed"\n'),
    "slurm: a command": profile("slurm", "partition: $(touch executed)\n"),
    "slurm: a quote": profile("slurm", "account: 'a\"; touch executed; \"'\n"),
    "slurm: a deep value": profile("slurm", "partition: " + "[" * 9999),
    "slurm: no nodes": profile("slurm", "nodes: -1\n"),
    "slurm: a list": profile("slurm", "- x\n"),
    "slurm: an alias bomb": profile("slurm", BOMB),
    "slurm: a time of letters": profile("slurm", "time: 99:99:99:99:99\n"),
    "slurm: UTF-16": profile("slurm", "nodes: 1\n".encode("utf-16")),
    "kubernetes: a tag": profile("kubernetes", f"image: {TOUCH}\n"),
    "kubernetes: a line end": profile("kubernetes", 'image: "x\\n  privileged: true"\n'),
    "kubernetes: an alias of itself": profile("kubernetes", "labels: &a {x: *a}\n"),
    "kubernetes: a deep value": profile("kubernetes", "labels: " + "{a: " * 9999),
    "kubernetes: 10^20 replicas": profile("kubernetes", "workers: 100000000000000000000\n"),
    "kubernetes: a name of markup": profile("kubernetes", "namespace: '<script>'\n"),
    "kubernetes: another type": profile("kubernetes", "image: [1, 2]\n"),
}


def battery(content: str) -> Maker:
    """Return what measures a run by a battery of this content."""

    def make(place: Place) -> list[str]:
        place.run()
        place.file("b.yaml", content)
        return ["scorecard", "run", "--battery", "b.yaml"]

    return make


def judge(content: str, answers: str = '{"id": "1", "input": "q", "output": "a"}\n') -> Maker:
    """Return what compares answers by a judge of this content."""

    def make(place: Place) -> list[str]:
        place.file("j.yaml", content)
        place.file("a.jsonl", answers)
        place.file("b.jsonl", answers.replace('"output": "a"', '"output": "b"'))
        return ["compare", "a.jsonl", "b.jsonl", "--judge", "j.yaml"]

    return make


def verdicts(content: str | bytes) -> Maker:
    """Return what compares answers by verdicts of this content."""

    def make(place: Place) -> list[str]:
        place.file("v.jsonl", content)
        return judge("judge: {kind: file, path: v.jsonl}\n")(place)

    return make


NOTHING_ELSE = "tasks: []\nperplexity: null\nsafety: null\ngame: null\n"
BATTERIES = {
    "a tag": battery(f"tasks: {TOUCH}\n"),
    "an alias of itself": battery("tasks: &a [*a]\n"),
    "brackets": battery("tasks: " + "[" * 9999),
    "texts of /dev/zero": battery("perplexity: {file: /dev/zero}\n"),
    "requests of /proc/self/environ": battery("safety: {file: /proc/self/environ}\n"),
    "tasks of a folder of others": battery(
        NOTHING_ELSE + "harness: [{task: ../../x, include: .}]\n"
    ),
    "another type of everything": battery("tasks: 1\nperplexity: []\nsafety: x\ngame: 0.5\n"),
    "10^20 examples": battery(
        "tasks: [{task: {kind: miniature, name: numbers}, examples: 100000000000000000000}]\n"
    ),
}  # fmt: skip
JUDGES = {
    "a tag": judge(f"judge: {TOUCH}\n"),
    "a template that asks for an attribute": judge(
        "judge: {kind: endpoint, url: 'http://127.0.0.1:9/v1', model: m, "
        "template: '{input.__class__} {first} {second}'}\n"
    ),
    "a URL of a file": judge("judge: {kind: endpoint, url: 'file:///etc/passwd', model: m}\n"),
    "a URL with a password": judge(
        "judge: {kind: endpoint, url: 'http://me:sesame@127.0.0.1:9/v1', model: m}\n"
    ),
    "a URL with a line end": judge(
        'judge: {kind: endpoint, url: "http://127.0.0.1:9/v1\\r\\nX: y", model: m}\n'
    ),
    "a URL of no port": judge(
        "judge: {kind: endpoint, url: 'http://127.0.0.1:99999/v1', model: m}\n"
    ),
    "a URL of a broken address": judge(
        "judge: {kind: endpoint, url: 'http://[::1/v1', model: m}\n"
    ),
    "a model that is a device": judge("judge: {kind: model, model: {path: /dev/zero}}\n"),
    "verdicts of a device": judge("judge: {kind: file, path: /dev/zero}\n"),
    "verdicts that are none": verdicts("{}\n"),
    "verdicts of another type": verdicts('{"id": "1", "first": [], "verdict": {}}\n'),
    "deep verdicts": verdicts("[" * 100_000),
    "answers that are deep": judge("judge: {kind: file, path: v.jsonl}\n", "[" * 100_000),
    "answers of other types": judge("judge: {kind: file, path: v}\n", '{"id": [], "output": 1}\n'),
    "answers with half of a surrogate pair": judge(
        "judge: {kind: file, path: v}\n", '{"id": "1", "input": "q", "output": "\\ud800"}\n'
    ),
    "answers without an input": judge("judge: {kind: file, path: v}\n", '{"output": "x"}\n'),
    "an id with an escape sequence": judge(
        "judge: {kind: file, path: v}\n",
        json.dumps({"id": "\x1b[2J", "input": "q", "output": "a"}) + "\n",
    ),
}  # fmt: skip
CASES: list[Case] = [
    *cases("sweep file: syntax", SYNTAX),
    *cases("sweep file: values", VALUES),
    *cases("override", OVERRIDES),
    *cases("profile", PROFILES),
    *cases("battery", BATTERIES),
    *cases("judge", JUDGES),
]
