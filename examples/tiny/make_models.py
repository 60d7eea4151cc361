"""Make the embedded model family: tokenizer, `pretrained`, `posttrained`, and the `random` recipe.

    python examples/tiny/make_models.py --out examples/tiny [--tokens 9000000] [--threads 2]

Everything is generated: no download, no other input. The run is seeded; on the same library
versions, processor type and number of threads it gives the same bytes, elsewhere the same up to
rounding. The `random` regime has no weights of its own: it is the same `config.json` initialised
with a seed.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from sheets import posttraining_sheet, pretraining_sheet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kilobit.search.streams import stream, stream_seed

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
SEQUENCE_LENGTH = 256
BATCH_SEQUENCES = 24
# The random parts of a question can't be predicted; answers carry what the model has to learn.
QUESTION_WEIGHT = 0.2
_ANSWER_LINE = re.compile(r"^(?:A|Out|Text):.*\n|^[0-9].*\n", re.MULTILINE)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 1,024 tokens on 12,000 sheets."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    rng = stream(seed, "tokenizer")
    texts = [pretraining_sheet(rng) for _ in range(10_000)]
    texts += [posttraining_sheet(rng) for _ in range(2_000)]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )


def make_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the architecture: Llama, four layers, 1.77 M parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, phase: str, post_share: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield packed token ids and loss weights, both of shape [batch, length + 1], without end."""
    rng = stream(seed, "data", phase)
    ids: list[int] = []
    weights: list[float] = []
    need = BATCH_SEQUENCES * (SEQUENCE_LENGTH + 1)
    while True:
        sheets = [
            posttraining_sheet(rng) if rng.random() < post_share else pretraining_sheet(rng)
            for _ in range(64)
        ]
        encoded = tokenizer(sheets, return_offsets_mapping=True)
        for text, tokens, offsets in zip(
            sheets, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            answers = [match.span() for match in _ANSWER_LINE.finditer(text)]
            ids += [*tokens, tokenizer.eos_token_id]
            weights += [
                1.0 if any(a <= start < b for a, b in answers) else QUESTION_WEIGHT
                for start, _ in offsets
            ] + [QUESTION_WEIGHT]
        while len(ids) >= need:
            shape = (BATCH_SEQUENCES, SEQUENCE_LENGTH + 1)
            yield torch.tensor(ids[:need]).view(shape), torch.tensor(weights[:need]).view(shape)
            del ids[:need], weights[:need]


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    phase: str,
    num_tokens: int,
    peak: float,
    post_share: float,
    seed: int,
    checkpoint: Path | None = None,
) -> None:
    """Train in place: Muon on the matrices of the layers, AdamW on the rest, linear decay."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02 * peak, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=3e-3 * peak, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    num_steps = num_tokens // (BATCH_SEQUENCES * SEQUENCE_LENGTH)
    data = batches(tokenizer, seed, phase, post_share)
    began, mean = time.monotonic(), 0.0
    for step in range(num_steps):
        scale = min(1.0, (step + 1) / 100, (num_steps - step) / (0.5 * num_steps))
        ids, weights = next(data)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids[:, :-1]).logits
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        weight = weights[:, 1:].flatten()
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * scale
            optimizer.step()
            optimizer.zero_grad()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0 or step == num_steps - 1:
            rate = (step + 1) * BATCH_SEQUENCES * SEQUENCE_LENGTH / (time.monotonic() - began)
            print(
                f"{phase} step {step}/{num_steps} loss {mean:.4f} {rate:.0f} tokens/s", flush=True
            )
            if checkpoint and step and step % 1000 == 0:
                save(model, tokenizer, checkpoint)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a half-precision copy in the usual Hugging Face layout."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Train both regimes and write the three model folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the three models")
    parser.add_argument("--tokens", type=int, default=9_000_000, help="pre-training tokens")
    parser.add_argument("--post-tokens", type=int, default=5_000_000, help="post-training tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(stream_seed(args.seed, "init"))
    tokenizer = make_tokenizer(args.seed)
    config = make_config(tokenizer)

    random_folder = args.out / "random"
    config.save_pretrained(random_folder)
    tokenizer.save_pretrained(random_folder)

    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    for name, tokens, peak, share in (
        ("pretrained", args.tokens, 1.0, 0.0),
        ("posttrained", args.post_tokens, 0.6, 0.9),
    ):
        train(
            model,
            tokenizer,
            phase=name,
            num_tokens=tokens,
            peak=peak,
            post_share=share,
            seed=args.seed,
            checkpoint=args.out / name,
        )
        save(model, tokenizer, args.out / name)
    print(json.dumps({"out": str(args.out), "seed": args.seed}))


if __name__ == "__main__":
    main()
