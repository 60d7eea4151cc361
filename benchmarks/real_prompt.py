"""A prompt of eight GSM8K demonstrations, coded by a real model and by general codecs.

    python benchmarks/real_prompt.py MODEL_DIR GSM8K_DIR [--demonstrations 8] [--threads 1]

GSM8K_DIR holds train.jsonl and test.jsonl. Codes the prompt by the model, writes the program, and
runs its program.py on no inputs, so that it only loads the model and decodes. The same is done with
the program of the shortest general codec, whose time is that of loading. Prints one JSON object:
tokens, bytes of the prompt by each codec, program bits by both ways, and user and system seconds of
encoding (which decodes once to check) and of both programs. One thread: where others use the
machine, two wait for each other in loops that count as processor time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

# Scripts see only their own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.tasks.published.gsm8k import Gsm8kTask, load_gsm8k
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.program import Program


def run(program: Program, model: Path, threads: int) -> float:
    """Return the processor seconds of a program without inputs, its process and start included.

    Raises:
        CalledProcessError: if it fails, as when its checksum does not hold.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "program.py").write_bytes(program.script)
        (folder / "payload.bin").write_bytes(program.payload)
        before = os.times()
        subprocess.run(
            [sys.executable, "program.py", str(model.absolute())],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            check=True,
        )
        after = os.times()
    used = after.children_user - before.children_user
    return used + after.children_system - before.children_system


def main() -> None:
    """Print the lengths and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("--demonstrations", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    settings = {"kind": "gsm8k", "shown": "solution"} | {
        split: {"path": str(asked.gsm8k.absolute() / f"{file}.jsonl")}
        for split, file in (("train", "train"), ("sealed", "test"))
    }
    task = load_gsm8k(Gsm8kTask.model_validate(settings), Path())
    config = BaseModelConfig(regime="real", path=asked.model.absolute())
    frozen = load(config, Path())
    shown = task.splits.train[: asked.demonstrations]
    prompt = Prompt(demonstrations=tuple((one.input, one.target) for one in shown))
    candidate = Candidate(task=task.name, model="real", prompt=prompt)
    builder = Builder(frozen, config, task, 1, "program")
    began = time.process_time()
    texts = builder.code_text(candidate, by_model=True)
    encoded_s = time.process_time() - began
    general = {codec: coded for codec, coded in texts.items() if codec != "model"}
    programs = [builder.build(candidate, found, None, []) for found in (texts, general)]
    decoded_s = [run(program, asked.model, asked.threads) for program in programs]
    text = prompt.render(task)
    found = {
        "tokens": len(frozen.tokenizer(text)["input_ids"]),
        "characters": len(text),
        "bytes": {codec: len(coded) for codec, coded in texts.items()},
        "codec": [program.codecs["prompt"] for program in programs],
        "cache": programs[0].recipe.prompt and programs[0].recipe.prompt.cache,
        "program_bits": [program.program_bits for program in programs],
        "encoding_processor_s": round(encoded_s, 1),
        "program_processor_s": [round(seconds, 1) for seconds in decoded_s],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
