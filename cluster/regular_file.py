"""Reading files that others may have made: regular ones only, and only so much of them.

A pipe, a device or a link to one would be waited for, or read without an end.
"""

import os
import stat

from evaluators.storage import Place
from evaluators.stored_path import StoredPath


def read_regular(path: Place, most: int) -> bytes:
    """Return what is in a file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        ValueError: if it is no regular file or larger than `most`; the message does not name it.
        OSError: if it can't be read.
    """
    if isinstance(path, StoredPath):
        if path.stat().st_size > most:
            raise ValueError(f"larger than the {most} bytes that it may have")
        return path.read_bytes()
    # Without waiting for a writer, where it is a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most + 1) if about.st_size <= most else None
    if content is None or len(content) > most:
        raise ValueError(f"larger than the {most} bytes that it may have")
    return content
