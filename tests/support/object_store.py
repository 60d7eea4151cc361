"""A small S3 server on loopback, and a proxy before it that makes faults and counts them.

The server does what a run asks of S3: put, also on the condition that nothing is there, multipart
upload, get, head, copy, delete, list in pages. It takes one access key. Tests go through the proxy.
With `KILOBIT_S3=http://127.0.0.1:PORT` the proxy stands before another server instead, for example
moto's (`docs/storage.md`).
"""

import hashlib
import http.client
import os
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET, KEY = "kilobit-tests", "test-key"
PAGE = 1000


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Stay quiet: clients are cut off on purpose."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["_Server"]:
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class Store(_Server):
    """The objects of one bucket."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _StoreHandler)
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message/></Error>".encode())

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


class _StoreHandler(_Handler):
    server: Store

    def handle_any(self) -> None:
        length, content = int(self.headers.get("Content-Length") or 0), self.body()
        if len(content) < length:
            # Cut off: what came is nothing.
            self.close_connection = True
            return
        url = urlsplit(self.path)
        _, bucket, *rest = unquote(url.path).split("/", 2)
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self.refuse(403, "InvalidAccessKeyId")
        elif bucket != BUCKET:
            self.refuse(404, "NoSuchBucket")
        else:
            getattr(self, f"_{self.command.lower()}")(rest[0] if rest else "", query, content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

    def _put(self, key: str, query: dict[str, str], content: bytes) -> None:
        server = self.server
        with server.lock:
            if "uploadId" in query:
                server.uploads[query["uploadId"]][int(query["partNumber"])] = content
            elif self.headers.get("If-None-Match") == "*" and key in server.objects:
                return self.refuse(412, "PreconditionFailed")
            elif source := self.headers.get("x-amz-copy-source"):
                name = unquote(source).lstrip("/").split("/", 1)[1]
                if name not in server.objects:
                    return self.refuse(404, "NoSuchKey")
                server.objects[key] = server.objects[name][0], time.time()
                tag = f"<ETag>{_tag(server.objects[key][0])}</ETag>"
                return self.answer(200, f"<CopyObjectResult>{tag}</CopyObjectResult>".encode())
            else:
                server.objects[key] = content, time.time()
        return self.answer(200, ETag=_tag(content))

    def _get(self, key: str, query: dict[str, str], _: bytes) -> None:
        if "list-type" in query:
            return self._list(query)
        found = self.server.objects.get(key)
        if found is None:
            return self.refuse(404, "NoSuchKey")
        content, when = found
        return self.answer(
            200,
            content,
            ETag=_tag(content),
            Last_Modified=formatdate(when, usegmt=True),
            Content_Length=str(len(content)),
        )

    _head = _get

    def _list(self, query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        most = min(PAGE, int(query.get("max-keys", PAGE)))
        with self.server.lock:
            found = [k for k in sorted(self.server.objects) if k.startswith(prefix) and k > after]
            rows = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
                f"<LastModified>{_iso(when)}</LastModified><ETag>{_tag(content)}</ETag></Contents>"
                for key, (content, when) in (
                    (key, self.server.objects[key]) for key in found[:most]
                )
            )
        more = len(found) > most
        last = escape(found[most - 1]) if more else ""
        token = f"<NextContinuationToken>{last}</NextContinuationToken>"
        text = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token if more else ''}{rows}</ListBucketResult>"
        )
        self.answer(200, text.encode())

    def _post(self, key: str, query: dict[str, str], content: bytes) -> None:
        server = self.server
        if "delete" in query:
            keys = re.findall(r"<Key>(.*?)</Key>", content.decode())
            with server.lock:
                for name in keys:
                    server.objects.pop(name, None)
            rows = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in keys)
            return self.answer(200, f"<DeleteResult>{rows}</DeleteResult>".encode())
        if "uploads" in query:
            name = uuid.uuid4().hex
            server.uploads[name] = {}
            text = (
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
            return self.answer(200, text.encode())
        with server.lock:
            parts = server.uploads.pop(query["uploadId"])
            whole = b"".join(parts[number] for number in sorted(parts))
            server.objects[key] = whole, time.time()
        text = (
            f"<CompleteMultipartUploadResult><ETag>{_tag(whole)}</ETag>"
            "</CompleteMultipartUploadResult>"
        )
        return self.answer(200, text.encode())

    def _delete(self, key: str, query: dict[str, str], _: bytes) -> None:
        with self.server.lock:
            if "uploadId" in query:
                self.server.uploads.pop(query["uploadId"], None)
            else:
                self.server.objects.pop(key, None)
        self.answer(204)


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _iso(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(when))


class Proxy(_Server):
    """Passes requests on, with faults.

    Attributes:
        delay_s: before each request.
        fail_every: each so manieth request is answered 500 and not passed on.
        lose_every: each so manieth request is passed on, but its answer is not given.
        cut_every: of each so manieth upload only the first half is passed on, then all is cut.
        trap: is told of each upload before it is passed on.
        before: is told of each request that changes something before it is passed on.
        first: what happens to each request that changes something the first time that it comes:
            `fail` (answered 500 and not passed on), `lose` (passed on, without an answer), `twice`
            (passed on twice, with the second answer), `slow` (half a second late), or nothing.
        store: the store, if it is of this process.
        done: how often what was done: `requests`, methods, `failed`, `lost`, `cut`.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.upstream = urlsplit(upstream).netloc
        self.store: Store | None = None
        self._lock = threading.Lock()
        self.calm()

    def calm(self) -> None:
        """Make no faults and forget those that were made."""
        self.delay_s = 0.0
        self.trap: Callable[[str], None] = lambda _: None
        self.before: Callable[[str], None] = lambda _: None
        self.first = ""
        self._came: set[tuple[str, str, bytes]] = set()
        self.fail_every = self.lose_every = self.cut_every = 0
        self.done: Counter[str] = Counter()

    def count(self, *what: str) -> Counter[str]:
        """Count what is done and return all counts."""
        with self._lock:
            self.done.update(what)
            return Counter(self.done)

    def fault(self, command: str, path: str, content: bytes) -> str:
        """Return what happens to a request that changes something."""
        with self._lock:
            came = (command, path, content) in self._came
            self._came.add((command, path, content))
        return "" if came else self.first


class _ProxyHandler(_Handler):
    server: Proxy

    def handle_any(self) -> None:
        content, proxy = self.body(), self.server
        kind = "LIST" if "list-type" in self.path else self.command
        upload = ["uploads"] if len(content) > 1 and self.command == "PUT" else []
        counts = proxy.count("requests", kind, *upload)
        time.sleep(proxy.delay_s)
        if proxy.fail_every and not counts["requests"] % proxy.fail_every:
            proxy.count("failed")
            return self.refuse(500, "InternalError")
        if upload:
            proxy.trap(self.path)
        fault = self._fault(content)
        time.sleep(0.5 if fault == "slow" else 0)
        if fault == "fail":
            return self.refuse(500, "InternalError")
        half = upload and proxy.cut_every and not counts["uploads"] % proxy.cut_every
        for _ in range(2 if fault == "twice" else 1):
            found, answer = self._pass_on(content[: len(content) // 2] if half else content, half)
        if found is None:
            proxy.count("cut")
            return self._cut()
        if fault == "lose":
            return self._cut()
        if proxy.lose_every and not counts["requests"] % proxy.lose_every:
            proxy.count("lost")
            return self._cut()
        self.send_response_only(found.status)
        for name, value in found.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = found.getheader("Content-Length") if self.command == "HEAD" else len(answer)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(answer)
        return None

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

    def _fault(self, content: bytes) -> str:
        proxy = self.server
        if self.command not in ("PUT", "POST", "DELETE"):
            return ""
        proxy.before(self.path)
        fault = proxy.fault(self.command, self.path, content)
        if fault:
            proxy.count(fault)
        return fault

    def _pass_on(self, content: bytes, half: Any) -> tuple[http.client.HTTPResponse | None, bytes]:
        """Send a request on and return the answer with its body, None if all is cut."""
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(content)
        if half:
            upstream.close()
            return None, b""
        found = upstream.getresponse()
        answer = found.read()
        upstream.close()
        return found, answer

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()


@contextmanager
def serving() -> Iterator[Proxy]:
    """Yield a proxy before a store that has one bucket."""
    other = os.environ.get("KILOBIT_S3")
    if other:
        connection = http.client.HTTPConnection(urlsplit(other).netloc)
        connection.request("PUT", f"/{quote(BUCKET)}")
        connection.getresponse().read()
        with Proxy(other).running() as proxy:
            assert isinstance(proxy, Proxy)
            yield proxy
        return
    with Store().running() as store, Proxy(store.url).running() as proxy:
        assert isinstance(proxy, Proxy)
        proxy.store = store if isinstance(store, Store) else None
        yield proxy


def environment(proxy: Proxy) -> dict[str, str]:
    """Return what a process needs to reach the store through its proxy."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_REGION": "us-east-1",
    }
