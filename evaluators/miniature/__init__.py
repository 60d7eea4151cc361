"""Three small synthetic tasks whose items are generated, not downloaded.

The same generators produced the training data of the embedded models (`examples/tiny/`). The hash
of an item's input decides its split, and the models were trained on the *train* bucket only, so
*search* and *sealed* are unseen by construction.
"""

import hashlib

SPLIT_NAMES = ("train", "search", "sealed")
# Of eight hash buckets one is search, one is sealed, and six are for training.
_BUCKETS = ("search", "sealed", "train", "train", "train", "train", "train", "train")


def split_of(text: str) -> str:
    """Return the split (`train`, `search` or `sealed`) of the item with input `text`."""
    return _BUCKETS[hashlib.sha256(text.encode()).digest()[0] % 8]
