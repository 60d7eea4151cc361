"""What damaged and hostile payloads do to the decoder.

    python benchmarks/hostile.py [--cases 10000]

Every case has to end in `PayloadError` or in a decode: no other error, below a second, and below
256 MB of memory that was not there before. A payload that decodes to the content of the original
(some codecs have several ways to say the same) is counted, and only its digest in the manifest
tells. Exits with 1 if a promise is broken.
"""

import argparse
import hashlib
import random
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context

import numpy as np

from kilobit.search.programs.numbers import encode_numbers
from kilobit.search.programs.program import WAYS, Decoded, decode, text_part
from kilobit.search.programs.recipe import AdapterPart, Recipe
from kilobit.search.programs.text import (
    _CODECS,
    CODECS,
    MAX_TEXT_BYTES,
    GeneralCodec,
    PayloadError,
    compress,
)
from kilobit.search.streams import stream

MOST_SECONDS, MOST_MB = 1.0, 256
TEXT = "Answer with a number.\nQ: Emma has 10 apples. She loses 2. How many?\nA: 8\n" * 3
SHAPES = ((2, 64), (2, 96), (1, 13))


@dataclass
class Summary:
    """What came of the cases.

    Attributes:
        outcomes: how many ended how.
        slowest_s: seconds of the slowest case.
        grown_mb: growth of the largest memory that the process ever had.
        broken: promises that were not kept.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    grown_mb: float = 0.0
    broken: list[str] = field(default_factory=list)


def originals() -> dict[str, tuple[Recipe, bytes]]:
    """Return recipes with their payloads: each codec, each coder, and both together."""
    bare = Recipe(question="Q: {input}\nA:", batch_size=8, max_new_tokens=8)
    texts = compress(TEXT.encode())
    rng = np.random.default_rng(0)
    integers = [np.rint(rng.laplace(size=shape) * 4).astype(np.int32) for shape in SHAPES]
    integers[1][0] = 0
    found: dict[str, tuple[Recipe, bytes]] = {}
    for codec in CODECS:
        prompt = text_part(codec, texts[codec])
        found[codec] = bare.model_copy(update={"prompt": prompt}), texts[codec]
    coded = texts["brotli"]
    by_model = text_part("model", b"\x10\x03\x01\x02\x03\x04")
    found["model"] = bare.model_copy(update={"prompt": by_model, "start_token": 1}), b"\x10\x03" * 3
    for way in WAYS:
        part = AdapterPart(method="lora", config="LoraConfig", shapes=SHAPES, numbers=way)
        numbers = encode_numbers(160, integers, way)
        assert numbers is not None
        name = f"{way.coder} {way.scales}"
        found[name] = bare.model_copy(update={"adapter": part}), numbers
        both = {"adapter": part, "prompt": text_part("brotli", coded)}
        found[f"brotli, {name}"] = bare.model_copy(update=both), coded + numbers
    return found


@cache
def bombs() -> dict[GeneralCodec, bytes]:
    """Return much more than a payload may hold, in few bytes."""
    # In another process: a coder takes more memory than the decoders that are measured here.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return dict(zip(CODECS[1:], pool.map(bomb, CODECS[1:]), strict=True))


def bomb(codec: GeneralCodec) -> bytes:
    """Return more zeros than a payload may hold, compressed."""
    return _CODECS[codec][0](bytes(MAX_TEXT_BYTES + 1))


def mutated(payload: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return another payload made from a real one."""
    data = bytearray(payload)
    kind = rng.randrange(9)
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        data += rng.randbytes(rng.choice((1, 2, 4, 100, 100_000)))
    elif kind == 2:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        other = rng.choice(others)
        data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]
    elif kind == 4:
        data = bytearray(rng.randbytes(rng.choice((0, 1, len(data), 10 * len(data)))))
    elif kind == 5:  # the largest numbers where a head or a count may be
        position = rng.randrange(len(data))
        data[position : position + 8] = b"\xff" * rng.randint(1, 8)
    elif kind == 6:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.randint(1, 8))
    elif kind == 7:
        data = bytearray(bytes([rng.choice((0, 1, 128, 255))]) * rng.choice((len(data), 1 << 20)))
    else:
        data = bytearray(bombs()[rng.choice(CODECS[1:])])
    return bytes(data)


def by_stub(section: bytes) -> str:
    """Stand in for the base model: what it makes of a section is not looked at here."""
    if len(section) < 2 or section[0] % 2:
        raise PayloadError("not coded by this model")
    return section.hex()


def content(decoded: Decoded) -> str:
    """Return the digest of what a payload says."""
    digest = hashlib.sha256(decoded.prompt.encode())
    for tensor in decoded.tensors:
        digest.update(f"{tensor.shape}".encode() + tensor.tobytes())
    return digest.hexdigest()


def with_room_for(recipe: Recipe, payload: bytes, rng: random.Random) -> Recipe:
    """Return the recipe, whose prompt may now be as long as the payload is."""
    if recipe.prompt is None or recipe.adapter is not None or not payload or rng.random() < 0.3:
        return recipe
    prompt = recipe.prompt.model_copy(update={"num_bytes": len(payload)})
    return recipe.model_copy(update={"prompt": prompt})


def attack(cases: int, seed: int = 0) -> Summary:
    """Decode `cases` hostile payloads."""
    summary, rng, real = Summary(), stream(seed, "hostile"), originals()
    payloads = [payload for _, payload in real.values()]
    meant = {name: content(decode(*one, by_stub)) for name, one in real.items()}
    bombs()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = list(real)
    for case in range(cases):
        name = names[case % len(names)]
        recipe, payload = real[name]
        hostile = mutated(payload, payloads, rng)
        # A recipe says how long its prompt is, so without this a longer text would never be read.
        recipe = with_room_for(recipe, hostile, rng)
        began = time.perf_counter()
        try:
            found = content(decode(recipe, hostile, by_stub))
            outcome = "other content" if found != meant[name] else "same content, other bytes"
            if hostile == payload:
                outcome = "the original"
        except PayloadError:
            outcome = "PayloadError"
        except Exception as error:  # noqa: BLE001 - that there is none is what is tried here
            outcome = type(error).__name__
            summary.broken.append(f"case {case}, {name}: {error!r}")
        seconds = time.perf_counter() - began
        summary.outcomes[outcome] += 1
        summary.slowest_s = max(summary.slowest_s, seconds)
        if seconds > MOST_SECONDS:
            summary.broken.append(f"case {case}, {name}: {seconds:.2f} s")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    summary.grown_mb = grown / 1024
    if summary.grown_mb > MOST_MB:
        summary.broken.append(f"memory grew by {summary.grown_mb:.0f} MB")
    return summary


def main() -> int:
    """Run the cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    summary = attack(args.cases, args.seed)
    print(f"{args.cases} cases in {time.monotonic() - began:.1f} s")
    for outcome, number in summary.outcomes.most_common():
        print(f"{number:8} {outcome}")
    print(f"slowest case {1000 * summary.slowest_s:.1f} ms, memory + {summary.grown_mb:.1f} MB")
    for line in summary.broken[:20]:
        print(f"broken: {line}")
    return 1 if summary.broken else 0


if __name__ == "__main__":
    sys.exit(main())
