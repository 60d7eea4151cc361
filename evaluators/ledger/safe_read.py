"""Reader for untrusted files: regular files only, up to a size limit.

Reading a pipe, a device or a link to one could block or never end.
"""

import os
import stat

from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.ledger.stored_path import StoredPath


def read_regular(path: Place, most: int) -> bytes:
    """Return the content of a file.

    Args:
        path: the file.
        most: the largest size that is read, in bytes.

    Raises:
        ValueError: if it is no regular file or larger than `most`; the message does not name it.
        OSError: if it can't be read.
    """
    if isinstance(path, StoredPath):
        if path.stat().st_size > most:
            raise ValueError(f"larger than the allowed {most} bytes")
        return path.read_bytes()
    # O_NONBLOCK: opening a pipe must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most + 1) if about.st_size <= most else None
    if content is None or len(content) > most:
        raise ValueError(f"larger than the allowed {most} bytes")
    return content
