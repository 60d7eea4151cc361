import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from kilobit.cluster.sweep.launch_targets import (
    KubernetesConfig,
    SlurmConfig,
    TolerationConfig,
    seconds_of,
)
from kilobit.launch import main

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "gpu; touch x"),
        ("partition", "gpu\n#SBATCH --uid=0"),
        ("account", "$(touch x)"),
        ("qos", "`touch x`"),
        ("time", "1:00:00\ntouch x"),
        ("time", "soon"),
        ("time", 43200),
        ("nodes", "2;3"),
        ("nodes", "4-2"),
        ("nodes", 0),
        ("scratch", "/tmp/$(touch x)"),
        ("scratch", "/a/folder/whose/name/is/long"),
        ("interface", "ib0 | sh"),
        ("output", "a b"),
        ("container", "apptainer exec x.sif; touch x"),
        ("container", "apptainer exec x.sif)"),
        ("setup", ["module load cuda\ntouch x"]),
        ("setup", [""]),
        ("directives", ["constraint=h100"]),
        ("directives", ["--constraint=h100 --uid=0"]),
        ("directives", ["--comment=$(touch x)"]),
        ("directives", ["--comment=a\ntouch x"]),
        ("directives", ["--signal=KILL"]),
        ("directives", ["--array=1-9"]),
    ],
)
def test_what_could_be_more_than_a_word_is_refused(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], field: str, value: object
) -> None:
    path = write_sweep(slurm={field: value})
    section = path.read_text("utf-8").splitlines().index("slurm:") + 1
    assert main(["slurm", str(path), "--print"]) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert f"slurm.{field}" in shown.err
    found = re.search(r"line (\d+)", shown.err)
    assert found
    assert int(found[1]) > section


def test_times_are_read_as_slurm_writes_them() -> None:
    texts = ("30:00", "1:00:00", "2-00:00:00", "1-12", "infinite", "n/a")
    assert list(map(seconds_of, texts)) == [1800, 3600, 172800, 129600, None, None]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("00:10:01", 601), ("12:30:00", 45000), ("1-00:00:00", 86400), ("100:00:00", 360000)],
)
def test_a_time_limit_is_known_in_seconds(time: str, seconds: int) -> None:
    assert SlurmConfig(time=time).time_s == seconds
    assert SlurmConfig().time_s is None


def test_a_job_is_warned_before_its_time_is_over() -> None:
    assert SlurmConfig(time="00:05:00", warning_s=299).warning_s == 299
    with pytest.raises(ValidationError, match=r"warning_s 300 must be less than .* of 300 s"):
        SlurmConfig(time="00:05:00", warning_s=300)


def test_the_fewest_nodes_are_those_that_the_range_begins_with() -> None:
    for nodes, fewest in (("2-14", 2), ("3-3", 3), (5, 5), (None, None)):
        assert SlurmConfig(nodes=nodes).fewest_nodes == fewest


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("--nodes=2", "slurm.nodes"),
        ("--mem=4G", "slurm.memory_gib"),
        ("--no-requeue", "slurm.requeue"),
        ("--dependency=afterok:7", "--chain"),
        ("--chdir=/x", "kilobit itself"),
    ],
)
def test_an_option_that_has_a_field_is_refused_as_a_directive(text: str, owner: str) -> None:
    with pytest.raises(ValidationError, match=f"{text.split('=')[0]} is set by {owner}"):
        SlurmConfig(directives=(text,))
    other = "--constraint=a100&ib"
    assert SlurmConfig(directives=(other, "--exclusive")).directives == (other, "--exclusive")


def test_a_toleration_compares_a_value_or_accepts_any() -> None:
    assert TolerationConfig(key="gpu", value="yes").operator == "Equal"
    assert TolerationConfig(operator="Exists").key is None
    with pytest.raises(ValidationError, match="operator `Exists` has no `value`"):
        TolerationConfig(key="gpu", operator="Exists", value="yes")
    with pytest.raises(ValidationError, match="a toleration without `key` needs operator `Exists`"):
        TolerationConfig(value="yes")


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "token", "DB_PASSWORD", "aws_secret_access", "API_KEY", "KEY_ID"]
)
def test_a_variable_that_is_called_like_a_secret_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"env\.{name} looks like a secret"):
        KubernetesConfig(env={"HOME": "/x", name: "value"})


@pytest.mark.parametrize("name", ["HF_HOME", "KEYBOARD", "TOKENIZERS_PARALLELISM", "MONKEY"])
def test_a_variable_that_only_contains_such_a_word_is_taken(name: str) -> None:
    assert KubernetesConfig(env={name: "value"}).env == {name: "value"}


def test_pods_have_a_lower_and_an_upper_limit() -> None:
    assert KubernetesConfig(min_replicas=2, max_replicas=2).max_replicas == 2
    assert KubernetesConfig(max_replicas=1).min_replicas is None
    with pytest.raises(ValidationError, match="max_replicas 2 is less than min_replicas 3"):
        KubernetesConfig(min_replicas=3, max_replicas=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "1st"),
        ("name", "a-"),
        ("name", "a" * 48),
        ("namespace", "A"),
        ("claim", "a/b"),
        ("mount_path", "data"),
        ("mount_path", "/data/"),
        ("out", "runs/x"),
        ("gpu_resource", "gpu"),
        ("ray_version", "2.9"),
        ("secrets", ["Hub"]),
        ("env", {"1X": "x"}),
        ("user", 0),
        ("grace_s", 9),
    ],
)
def test_what_kubernetes_would_not_take_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=rf"(?s)^1 validation error .*Config\n{field}\b"):
        KubernetesConfig.model_validate({field: value})
