"""A frozen base model and what is put on it: load, generate, train, code."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

# PEFT imports bitsandbytes where it is installed, which then tells of each kernel that it lacks.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import libraries meanwhile without Python's collection of garbage.

    It looks through the objects of thousands of modules again and again, finds nothing, and
    takes a quarter of the processor time of importing torch, transformers and PEFT.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
