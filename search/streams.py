"""Named random streams.

Every random draw of the project comes from a stream named after its purpose, never from a global
generator. The order in which a cluster finishes its work therefore changes no draw.
"""

import hashlib
import random


def stream_seed(*name: str | int) -> int:
    """Return a 63-bit seed that depends only on `name`, on every machine and version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in name)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(*name: str | int) -> random.Random:
    """Return the generator of the stream `name`, e.g. `stream(run_seed, "space", "prompt")`."""
    return random.Random(stream_seed(*name))  # noqa: S311 - draws, not secrets
