"""BLEU by the command line of sacrebleu."""

import subprocess
import sys
from pathlib import Path


def by_the_command(folder: Path, outputs: list[str], targets: list[str], *options: str) -> float:
    """Return what sacrebleu's command line prints with all the digits of a float."""
    (folder / "out").write_text("".join(f"{line}\n" for line in outputs), "utf-8")
    (folder / "ref").write_text("".join(f"{line}\n" for line in targets), "utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "out", "-b", "-w", "17", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    return float(done.stdout)
