"""Folder of the golden manifests."""

from tests.conftest import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "cluster" / "launchers" / "golden"
