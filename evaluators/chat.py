"""One request to an OpenAI-compatible endpoint, with the standard library.

The key comes from an environment variable. It goes to the host in `url` and nowhere else: no
redirect is followed, and it is redacted from every text that the endpoint returns.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from evaluators.judges import EndpointJudge

_PASSING = frozenset({408, 409, 429})
_HOPELESS = frozenset({401, 403, 404})
_MOST_BYTES = 4_000_000
_SHOWN = 200


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that makes redirects errors: urllib would send the key to their target."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Refuse every redirect."""


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
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """Send one request and return its reply.

        Raises:
            TryAgainError: if a retry may succeed.
            RefusedError: if this question can't be answered.
            EndpointError: if no question can be answered.
        """
        request = urllib.request.Request(  # noqa: S310 - the settings allow only http and https
            self._config.url.rstrip("/") + "/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        if self._key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        ends = self._clock() + self._config.timeout_s
        try:
            with self._opener.open(request, timeout=self._config.timeout_s) as response:
                content = self._read(response, ends)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except TimeoutError:
            raise self._late() from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._late() from None
            raise TryAgainError(self._blot(f"no connection: {error.reason}")) from None
        except (OSError, http.client.HTTPException) as error:
            raise TryAgainError(self._blot(f"the connection broke: {error!r}")) from None
        try:
            return _reply(self._blot(content.decode("utf-8")))
        except (ValueError, RecursionError) as error:
            raise TryAgainError(f"invalid reply: {error}") from None

    def _late(self) -> TryAgainError:
        return TryAgainError(f"no reply in {self._config.timeout_s:g} s")

    def _read(self, response: Any, ends: float) -> bytes:
        """Return the whole body; the time limit also applies to a server that sends slowly."""
        pieces, size = [], 0
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            size += len(piece)
            if self._clock() > ends:
                raise self._late()
            if size > _MOST_BYTES:
                raise TryAgainError(f"invalid reply: more than {_MOST_BYTES} bytes")
        return b"".join(pieces)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        said = ""
        with suppress(OSError, http.client.HTTPException):
            # Redact before cutting, or a piece of the key could remain.
            said = self._blot(error.read(_MOST_BYTES).decode("utf-8", "replace"))
        said = " ".join(said.split())[:_SHOWN]
        reason = f"status {error.code}" + (f": {said}" if said else "")
        if error.code in _PASSING or error.code >= 500:
            return TryAgainError(reason, _seconds(error.headers.get("Retry-After")))
        if error.code in _HOPELESS or error.code < 400:
            hint = ""
            if error.code in (401, 403):
                variable = self._config.key_variable
                hint = f"; the key comes from {variable}" if variable else "; it requires a key"
            return EndpointError(f"judge {self._config.url}: {reason}{hint}")
        return RefusedError(reason)

    def _blot(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "[key]")


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
    value = counts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
