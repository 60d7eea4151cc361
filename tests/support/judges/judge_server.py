"""An endpoint on this machine that does what servers do: answers, errors, garbage, silence."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: Any, **usage: Any) -> tuple[int, bytes, dict[str, str]]:
    body: dict[str, Any] = {"choices": [{"message": {"content": text}}]}
    if usage:
        body["usage"] = usage
    return 200, json.dumps(body).encode(), {}


GOOD = completion("A", prompt_tokens=100, completion_tokens=1)


class Server:
    """Answers by `script` while it lasts, then by `rule` or else `always`; keeps what it was asked.

    Status 0 is silence.
    """

    def __init__(self) -> None:
        self.script: list[tuple[int, bytes, dict[str, str]]] = []
        self.always = GOOD
        self.rule: Callable[[Any], tuple[int, bytes, dict[str, str]]] | None = None
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.lock = threading.Lock()
        self.hang = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.asked.append((self.path, dict(self.headers), body))
                    scripted = server.script.pop(0) if server.script else None
                if scripted is None:
                    scripted = server.rule(body) if server.rule else server.always
                code, content, headers = scripted
                if code == 0:
                    server.hang.wait(20)
                    return
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def stop(self) -> None:
        self.hang.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
