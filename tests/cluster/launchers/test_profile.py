"""A profile describes a cluster, and a sweep says what is different for it."""

from pathlib import Path

import pytest

from kilobit.cluster.launchers.profile import with_profile
from kilobit.cluster.sweep.launch_targets import KubernetesConfig, SlurmConfig
from kilobit.search.settings import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(text, "utf-8")
    return path


def test_the_sweep_wins_field_by_field_also_with_a_default(tmp_path: Path) -> None:
    profile = write(tmp_path, "partition: gpu\nrequeue: false\nsetup: [module load cuda]\n")
    found = with_profile(SlurmConfig(requeue=True, nodes=2), profile, SlurmConfig)
    assert found == SlurmConfig(partition="gpu", requeue=True, nodes=2, setup=("module load cuda",))
    assert with_profile(None, profile, SlurmConfig).requeue is False
    assert with_profile(None, None, SlurmConfig) == SlurmConfig()
    section = SlurmConfig(partition="cpu")
    assert with_profile(section, None, SlurmConfig) == section


def test_an_error_in_a_profile_names_file_and_line(tmp_path: Path) -> None:
    profile = write(tmp_path, "partition: gpu\nnodse: 3\n")
    with pytest.raises(InputError, match=r"profile\.yaml, line 2: unknown key 'nodse'.*'nodes'"):
        with_profile(SlurmConfig(), profile, SlurmConfig)
    with pytest.raises(InputError, match=r"absent\.yaml: No such file"):
        with_profile(None, tmp_path / "absent.yaml", SlurmConfig)


def test_what_is_fit_alone_may_be_unfit_together(tmp_path: Path) -> None:
    profile = write(tmp_path, "autoscale: true\nmin_replicas: 4\n")
    section = KubernetesConfig(autoscale=True, max_replicas=2)
    with pytest.raises(InputError, match="together: max_replicas 2 is less than min_replicas 4"):
        with_profile(section, profile, KubernetesConfig)
