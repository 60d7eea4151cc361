"""A judge behind an OpenAI-compatible endpoint, asked over HTTP with the standard library.

Every reply is stored in a file under the hash of its request, so a second run sends no request.
Temporary errors (time-outs, statuses 408, 409, 429, 5xx, an invalid reply) are retried with growing
pauses, or after the pause that the endpoint asks for; after the last try the verdict is None with a
reason. Permanent errors (a refused key, no such address or model) end everything with one message,
and so do several questions in a row that got no reply after all tries.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.chat import Chat, EndpointError, RefusedError, Reply, TryAgainError
from evaluators.judges import EndpointJudge, fill, read_verdict
from evaluators.preference import Question, Verdict, tell_nobody
from evaluators.storage import write_whole
from evaluators.streams import stream

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
_MOST_FAILURES = 5


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
            write_whole(self._place(name), json.dumps(vars(reply)).encode())
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

    def _place(self, name: str) -> Path:
        assert self._cache is not None
        return self._cache / name[:2] / f"{name}.json"

    def _known(self, name: str) -> Reply | None:
        """Return the stored reply to a request; a damaged one counts as absent."""
        if self._cache is None:
            return None
        with suppress(OSError, ValueError, TypeError, RecursionError):
            reply = Reply(**json.loads(self._place(name).read_text("utf-8")))
            return reply if isinstance(reply.text, str) else None
        return None


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
