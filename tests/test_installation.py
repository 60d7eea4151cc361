"""Distributions of kilobit: a wheel, an sdist, and a wheel made from that."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SHIPPED = ("search", "evaluators", "cluster", "launch.py", "pyproject.toml", "README.md", "LICENSE")


def built(source: Path, out: Path, kind: str) -> Path:
    """Build a wheel or an sdist without leaving anything in `source`; return the file."""
    code = f"import setuptools.build_meta as b; print(b.build_{kind}({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the wheel is built from, with the links in `kilobit/` as they are."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in SHIPPED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    shutil.copytree(REPOSITORY / "kilobit", copy / "kilobit", symlinks=True)
    return copy


def test_a_wheel_installs_one_package_and_a_wheel_of_an_sdist_the_same(
    checkout: Path, tmp_path: Path
) -> None:
    wheel = built(checkout, tmp_path, "wheel")
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"kilobit", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}
    here = {
        f"kilobit/{path.relative_to(REPOSITORY).as_posix()}"
        for top in ("search", "evaluators", "cluster")
        for path in (REPOSITORY / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here | {"kilobit/__init__.py", "kilobit/launch.py"} <= set(names)
    sdist = built(checkout, tmp_path, "sdist")
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(sdist, unpacked)
    again = built(next(unpacked.iterdir()), unpacked, "wheel")
    with zipfile.ZipFile(again) as archive:
        assert sorted(archive.namelist()) == names
