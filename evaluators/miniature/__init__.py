"""Three small synthetic tasks whose items are generated, not downloaded.

The same generators feed the embedded model family (`examples/tiny/`). An item belongs to one split
by the hash of its input, and the models were trained on the *train* bucket only, so *search* and
*sealed* are unseen by construction.
"""

import hashlib

SPLIT_NAMES = ("train", "search", "sealed")
# Of eight hash buckets one is for search, one is sealed, and six may be trained on.
_BUCKETS = ("search", "sealed", "train", "train", "train", "train", "train", "train")


def split_of(text: str) -> str:
    """Return the split (`train`, `search` or `sealed`) of the item with input `text`."""
    return _BUCKETS[hashlib.sha256(text.encode()).digest()[0] % 8]
