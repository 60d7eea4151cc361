"""Memory, load time and speed of a base model over several ranks, by layout.

    python benchmarks/shards.py [--ranks 1 2 4] [--new-tokens 16] [--rows 4]

It makes a random Llama-shaped model of about 230 MB and prints a line for each layout and number of
ranks: numbers that a rank keeps (and their share of the whole model), the highest private memory
of a rank while it loads above that before, seconds to load, and generated tokens a second.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kilobit.cluster.fleet.pool import request_placement
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.shards.group import ShardGroup
from kilobit.cluster.shards.load import load_sharded
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.placement import needs_of
from kilobit.cluster.sweep.workers import ShardsConfig, Workers
from kilobit.evaluators.model.machine import local_tensors
from kilobit.search.base_model import BaseModelConfig


def make_model(folder: Path) -> int:
    """Write the model and a tokenizer of bytes; return the bytes of its weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    letters = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=letters[0])
    fast.save_pretrained(folder)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def private_mb() -> float:
    """Return this process's memory without files that are mapped into it."""
    lines = Path("/proc/self/status").read_text("utf-8").split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Bench:
    """A rank that measures its own loading."""

    def __init__(self, address: RankAddress, config: BaseModelConfig, shards: ShardsConfig) -> None:
        torch.set_num_threads(1)
        import deepspeed  # noqa: F401 - its own memory is not the model's

        before, done = private_mb(), threading.Event()
        self._peak = before

        def look() -> None:
            while not done.wait(0.01):
                self._peak = max(self._peak, private_mb())

        thread = threading.Thread(target=look)
        thread.start()
        began = time.monotonic()
        self._frozen = load_sharded(config, Path(), shards, address)
        self._load_s = time.monotonic() - began
        done.set()
        thread.join()
        self._peak -= before
        self._grown = private_mb() - before

    def measure(self, rows: int, new_tokens: int) -> dict[str, Any]:
        """Return this rank's numbers, the largest of all ranks where they differ."""
        frozen, shard = self._frozen, self._frozen.shard
        seen: dict[int, int] = {}
        for _, tensor in local_tensors(frozen.model):
            seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        ranks = torch.zeros(shard.world_size, 3, dtype=torch.float64)
        ranks[shard.rank] = torch.tensor([sum(seen.values()) / 2**20, self._peak, self._grown])
        kept, peak, grown = shard.sum(ranks).max(dim=0).values.tolist()
        ids = torch.ones(rows, 16, dtype=torch.int64)
        speeds = []
        for _ in range(2):
            began = time.monotonic()
            out = frozen.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )
            speeds.append((out.shape[1] - 16) * rows / (time.monotonic() - began))
        return {
            "kept_mb": kept,
            "peak_mb": peak,
            "grown_mb": grown,
            "load_s": self._load_s,
            "tokens_per_s": max(speeds),
        }


class Caller:
    """Rank 0 of a group, in a process of its own."""

    def run(
        self, base: BaseModelConfig, shards: ShardsConfig, rows: int, new_tokens: int
    ) -> dict[str, Any]:
        """Load, measure and end a group."""
        (need,) = needs_of({"m": Workers(shards=shards)}, {"m": 0.1})
        with ShardGroup(shards, "cpu", Bench, (base, shards), request_placement(need)) as group:
            found: dict[str, Any] = group.call("measure", rows, new_tokens)
        return found


def main() -> None:
    """Print a line for each layout and number of ranks."""
    # After our own package, which says how Ray authenticates.
    import ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ray_session():
        whole_mb = make_model(Path(scratch)) / 2**20
        print(f"weights {whole_mb:.0f} MB")
        base = BaseModelConfig(regime="random", path=Path(scratch))
        runs = [(n, lay) for n in asked.ranks for lay in (("one",) if n == 1 else LAYOUTS)]
        for world_size, layout in runs:
            shards = ShardsConfig.model_validate(
                {"world_size": world_size, "layout": layout, "cpus_per_rank": 0.1}
            )
            actor_class: Any = ray.remote(Caller)
            caller = actor_class.options(num_cpus=0).remote()
            got = ray.get(caller.run.remote(base, shards, asked.rows, asked.new_tokens))
            ray.kill(caller)
            share, limit = got["kept_mb"] / whole_mb, 1 / world_size + 0.2
            print(
                f"{layout:>6} {world_size} ranks: keeps {got['kept_mb']:.0f} MB "
                f"({share:.0%}, limit {limit:.0%}), private {got['grown_mb']:+.0f} MB, "
                f"peak in load {got['peak_mb']:+.0f} MB, load {got['load_s']:.1f} s, "
                f"{got['tokens_per_s']:.1f} tokens/s",
                flush=True,
            )
            assert share <= limit


LAYOUTS = ("tensor", "zero3")

if __name__ == "__main__":
    main()
