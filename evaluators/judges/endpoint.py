"""A judge behind an OpenAI-compatible endpoint: requests, tries, limits, cache, cost.

The key comes from an environment variable. It goes to the host in `url` and nowhere else: no
redirect is followed, and it is redacted from every text that the endpoint returns.

Every reply is stored in a file under the hash of its request, so a second run sends no request.
Temporary errors (time-outs, statuses 408, 409, 429, 5xx, an invalid reply) are retried with growing
pauses, or after the pause that the endpoint asks for; after the last try the verdict is None with a
reason. Permanent errors (a refused key, no such address or model) end everything with one message,
and so do several questions in a row that got no reply after all tries.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kilobit.evaluators.judges.judges import EndpointJudge, fill, read_verdict
from kilobit.evaluators.judges.preference import Question, Verdict, tell_nobody
from kilobit.evaluators.ledger.storage import write_whole
from kilobit.search.streams import stream

_PASSING = frozenset({408, 409, 429})
_HOPELESS = frozenset({401, 403, 404})
_MOST_BYTES = 4_000_000
_SHOWN = 200
_MOST_TOKENS = 10**12
_MOST_FAILURES = 5


class EndpointError(OSError):
    """The endpoint refuses every request or does not answer, whatever the question."""


class TryAgainError(Exception):
    """A request without a reply that may be retried, after `pause_s` if the endpoint set it."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class RefusedError(Exception):
    """A question without a reply that must not be retried."""


@dataclass(frozen=True)
class Reply:
    """A reply of the endpoint; tokens are None if it did not count them."""

    text: str
    input_tokens: int | None
    output_tokens: int | None


class Chat:
    """Client of a chat endpoint that sends each request once, without retries.

    Args:
        config: address and limits of the endpoint.
        clock: monotonic seconds.

    Raises:
        ValueError: if the variable of the key is not set, or does not hold a valid key.
    """

    def __init__(self, config: EndpointJudge, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self._key = key_in(config.key_variable)
        self._by = _by_a_proxy(config.url)
        # When the request of a thread ends.
        self._ends = threading.local()

    @cached_property
    def _client(self) -> Any:
        # Only processes that ask an endpoint load it.
        import httpx2

        # Compressed replies would evade the size limit.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        jar = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        limits, timeout_s = httpx2.Limits(max_connections=None), self._config.timeout_s
        try:
            client = httpx2.Client(headers=headers, cookies=jar, timeout=timeout_s, limits=limits)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise EndpointError(f"judge: the environment's proxy can't be used: {error}") from None
        # The library has a time limit for each piece of a reply, but none for a request.
        for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
            pool: Any = getattr(transport, "_pool", None)
            if pool is not None:
                pool._network_backend = _Limited(pool._network_backend, self._left_s)  # noqa: SLF001
        return client

    def _left_s(self) -> float:
        """Return the seconds that are left to this thread's request.

        Raises:
            httpcore2.ReadTimeout: if none are left.
        """
        import httpcore2

        left_s: float = self._ends.at - self._clock()
        if left_s <= 0:
            raise httpcore2.ReadTimeout("the request is slow")
        return left_s

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """Send one request and return its reply.

        Raises:
            TryAgainError: if a retry may succeed.
            RefusedError: if this question can't be answered.
            EndpointError: if no question can be answered.
        """
        import httpx2

        url = self._config.url.rstrip("/") + "/chat/completions"
        self._ends.at = self._clock() + self._config.timeout_s
        try:
            with self._client.stream("POST", url, content=json.dumps(body).encode()) as response:
                content = self._read(response)
        except httpx2.TimeoutException:
            raise TryAgainError(f"no reply in {self._config.timeout_s:g} s{self._by}") from None
        except httpx2.ConnectError as error:
            raise TryAgainError(self._blot(f"no connection: {error}{self._by}")) from None
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise TryAgainError(self._blot(f"the connection broke: {error!r}{self._by}")) from None
        except ValueError as error:
            # The library reads the address of a redirect, though it does not follow it.
            raise TryAgainError(self._blot(f"invalid reply: {error}")) from None
        if not response.is_success:
            raise self._refusal(response, content)
        if len(content) > _MOST_BYTES:
            raise TryAgainError(f"invalid reply: more than {_MOST_BYTES} bytes")
        try:
            return _reply(self._blot(content.decode("utf-8")))
        except (ValueError, RecursionError) as error:
            raise TryAgainError(f"invalid reply: {error}") from None

    def _read(self, response: Any) -> bytes:
        """Return the body, none if that of a refusal breaks."""
        import httpx2

        content = bytearray()
        with suppress(*() if response.is_success else (httpx2.TransportError,)):
            for piece in response.iter_raw():
                content += piece
                if len(content) > _MOST_BYTES:
                    break
            return bytes(content)
        # It may end within the key.
        return b""

    def _refusal(self, response: Any, content: bytes) -> Exception:
        code = response.status_code
        # Redact before cutting, or a piece of the key could remain.
        said = " ".join(self._blot(content.decode("utf-8", "replace")).split())[:_SHOWN]
        reason = f"status {code}" + (f": {said}" if said else "") + self._by
        if code in _PASSING or code >= 500:
            return TryAgainError(reason, _seconds(response.headers.get("Retry-After")))
        if code in _HOPELESS or code < 400:
            hint = ""
            if code in (401, 403):
                variable = self._config.key_variable
                hint = f"; the key comes from {variable}" if variable else "; it requires a key"
            return EndpointError(f"judge {self._config.url}: {reason}{hint}")
        return RefusedError(reason)

    def _blot(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "[key]")


class _Limited:
    """A network, or a connection of it, whose waits all end when a request does.

    Args:
        inner: what does the work.
        left_s: returns the seconds that are left, and raises if there are none.
    """

    def __init__(self, inner: Any, left_s: Callable[[], float]) -> None:
        self._inner, self._left_s = inner, left_s

    def connect_tcp(self, host: str, port: int, **options: Any) -> "_Limited":
        options["timeout"] = self._left_s()
        return _Limited(self._inner.connect_tcp(host, port, **options), self._left_s)

    def start_tls(self, ssl_context: Any, **options: Any) -> "_Limited":
        options["timeout"] = self._left_s()
        return _Limited(self._inner.start_tls(ssl_context, **options), self._left_s)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        content: bytes = self._inner.read(max_bytes, self._left_s())
        return content

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left_s())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _by_a_proxy(url: str) -> str:
    """Return the end of a message that names the proxy of an address, empty if it has none."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    # Without a password.
    where = proxy.rpartition("@")[2].rpartition("//")[2]
    return (
        f" (by the proxy {where} of the environment; if it can't reach the judge, put "
        f"{parts.hostname} into no_proxy)"
    )


def key_in(variable: str | None) -> str | None:
    """Return the key in an environment variable; messages never show it.

    Raises:
        ValueError: if the variable is not set, or does not hold a valid key.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"judge: the environment variable {variable} of the key is not set")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"judge: the environment variable {variable} does not hold a valid key")
    return key


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, None if it holds a date."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if seconds >= 0 else None


def _reply(content: str) -> Reply:
    """Return the reply in the body of a response.

    Raises:
        ValueError: if it is not a chat completion with a text.
    """
    data = json.loads(content)
    try:
        text = data["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ValueError(f"no choices[0].message.content in {content[:_SHOWN]!r}")
    usage = data.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(text, _whole(counts, "prompt_tokens"), _whole(counts, "completion_tokens"))


def _whole(counts: Mapping[str, Any], name: str) -> int | None:
    """Return a count of tokens, None if it is none."""
    value = counts.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _MOST_TOKENS else None


_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0


@dataclass
class Spent:
    """Counts of requests, replies and tokens of this process, for the cost.

    Attributes:
        replies: from the endpoint.
        cached: replies from the cache, which cost nothing.
        requests: that were sent, including retries.
        uncounted: replies without a count of tokens.
    """

    replies: int = 0
    cached: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0

    def dollars(self, config: EndpointJudge) -> float | None:
        """Return the cost, None without prices or if a reply has no count of tokens."""
        prices = (config.dollars_per_million_input, config.dollars_per_million_output)
        if prices[0] is None or prices[1] is None or self.uncounted:
            return None
        return (self.input_tokens * prices[0] + self.output_tokens * prices[1]) / 1e6


class Endpoint:
    """A judge that is asked over HTTP.

    Args:
        config: address, model, cache and limits of the judge.
        folder: base folder of a relative path of the cache.
        clock: monotonic seconds.
        sleep: waits for some seconds; the default returns early if all questions are given up.

    Raises:
        ValueError: if the variable of the key is not set, or does not hold a valid key.
    """

    def __init__(
        self,
        config: EndpointJudge,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.spent = Spent()
        self._config, self._clock = config, clock
        self._given_up = threading.Event()
        self._sleep = self._given_up.wait if sleep is None else sleep
        self._chat = Chat(config, clock)
        self._cache = None if config.cache is None else folder / config.cache
        self._lock = threading.Lock()
        self._next_request = 0.0
        self._failures_in_a_row = 0

    def verdicts(
        self, questions: Sequence[Question], on_each: Callable[[], None] = tell_nobody
    ) -> list[Verdict]:
        """Return a verdict for each question; several are asked at once.

        Raises:
            EndpointError: if the endpoint refuses every request or does not answer.
            OSError: if a reply can't be stored.
        """
        self._given_up.clear()
        with ThreadPoolExecutor(self._config.concurrency) as threads:
            futures = [threads.submit(self._verdict, question) for question in questions]
            found = []
            try:
                for future in futures:
                    found.append(future.result())
                    on_each()
            except BaseException:
                # Cancel questions that have not begun; the others end after their request.
                self._given_up.set()
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def _verdict(self, question: Question) -> Verdict:
        content = fill(self._config.template, question)
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": content}],
            self._config.tokens_field: self._config.max_tokens,
        }
        if self._config.temperature is not None:
            body["temperature"] = self._config.temperature
        name = _digest({"url": self._config.url.rstrip("/"), **body})
        known = self._known(name)
        if known is not None:
            with self._lock:
                self.spent.cached += 1
            return read_verdict(known.text)
        try:
            reply = self._patiently(body, name)
        except RefusedError as error:
            return Verdict(None, str(error))
        except BaseException:
            # Set the flag here, before this thread takes the next question.
            self._given_up.set()
            raise
        if self._cache is not None:
            write_whole(self._path(name), json.dumps(vars(reply)).encode())
        return read_verdict(reply.text)

    def _patiently(self, body: Mapping[str, Any], name: str) -> Reply:
        """Ask until there is a reply, or all tries are used up."""
        # Pauses are random, so that requests refused together are not retried together.
        jitter = stream("judge", "pause", name)
        for attempt in range(self._config.retries + 1):
            if self._given_up.is_set():
                raise RefusedError("given up after the error of another question")
            self._wait_for_turn()
            try:
                reply = self._chat.ask(body)
            except TryAgainError as error:
                if attempt == self._config.retries:
                    self._count_failure(str(error))
                    tries = attempt + 1
                    raise RefusedError(f"no reply in {tries} tries, the last: {error}") from error
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * jitter.uniform(
                    0.5, 1
                )
                self._sleep(min(_LONGEST_PAUSE_S, max(pause_s, error.pause_s or 0.0)))
                continue
            self._count(reply)
            return reply
        raise AssertionError("the last try ends the loop")

    def _wait_for_turn(self) -> None:
        """Wait until the limit on requests allows the next one."""
        with self._lock:
            self.spent.requests += 1
            now = self._clock()
            turn = max(now, self._next_request)
            if self._config.requests_per_minute is not None:
                self._next_request = turn + 60 / self._config.requests_per_minute
        if turn > now:
            self._sleep(turn - now)

    def _count(self, reply: Reply) -> None:
        with self._lock:
            self._failures_in_a_row = 0
            self.spent.replies += 1
            self.spent.input_tokens += reply.input_tokens or 0
            self.spent.output_tokens += reply.output_tokens or 0
            self.spent.uncounted += None in (reply.input_tokens, reply.output_tokens)

    def _count_failure(self, reason: str) -> None:
        with self._lock:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= _MOST_FAILURES:
                raise EndpointError(
                    f"judge {self._config.url}: {self._failures_in_a_row} questions in a row got "
                    f"no reply, the last: {reason}"
                )

    def _path(self, name: str) -> Path:
        assert self._cache is not None
        return self._cache / name[:2] / f"{name}.json"

    def _known(self, name: str) -> Reply | None:
        """Return the stored reply to a request; a damaged one counts as absent."""
        if self._cache is None:
            return None
        with suppress(OSError, ValueError, TypeError, RecursionError):
            reply = Reply(**json.loads(self._path(name).read_text("utf-8")))
            return reply if isinstance(reply.text, str) else None
        return None


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
