"""A server that sends a reply so slowly that no single wait for it is long."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def dripping(begin: bytes, drop: bytes, every_s: float) -> Iterator[str]:
    """Yield the URL of a server that sends `begin`, then `drop` again and again."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    try:
                        connection.recv(65536)
                        connection.sendall(begin)
                        while not ended.wait(every_s):
                            connection.sendall(drop)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            ended.set()
            thread.join()
