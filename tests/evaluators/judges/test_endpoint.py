"""A judge over HTTP, against a server on this machine that does what servers do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.judges.endpoint import Endpoint, EndpointError
from kilobit.evaluators.judges.judges import EndpointJudge
from kilobit.evaluators.judges.preference import Pair, Question, judge_pairs, summarise
from tests.support.judges.dripping import dripping
from tests.support.judges.judge_server import Server, completion

KEY = "sk-not-a-real-key-0123456789"
QUESTIONS = [Question(f"q{i}", "long answer", "short") for i in range(6)]


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.stop()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, list[float]()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def endpoint(server: Server, folder: Path, time: Time | None = None, **changes: Any) -> Endpoint:
    settings = {"kind": "endpoint", "url": server.url, "model": "m", "concurrency": 1} | changes
    config = EndpointJudge.model_validate(settings)
    time = time or Time()
    return Endpoint(config, folder, time.clock, time.sleep)


def test_a_question_goes_out_as_a_chat_with_the_key(server: Server, tmp_path: Path) -> None:
    judge = endpoint(server, tmp_path, key_variable="JUDGE_KEY")
    assert judge.verdicts(QUESTIONS[:1])[0].position == "first"
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert set(body) == {"model", "messages", "max_tokens", "temperature"}
    assert body["messages"][0]["content"].count("[Answer A]\nlong answer\n") == 1
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 16, 0)
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 1
    assert KEY not in kept[0]


def test_a_second_run_asks_nothing_and_costs_nothing(server: Server, tmp_path: Path) -> None:
    prices = {"dollars_per_million_input": 2.5, "dollars_per_million_output": 10.0}
    first = endpoint(server, tmp_path, concurrency=3, **prices)
    verdicts = first.verdicts(QUESTIONS)
    assert first.spent.dollars(first._config) == pytest.approx((600 * 2.5 + 6 * 10) / 1e6)
    assert (first.spent.replies, first.spent.requests, first.spent.cached) == (6, 6, 0)
    again = endpoint(server, tmp_path, **prices)
    assert again.verdicts(QUESTIONS) == verdicts
    assert (again.spent.replies, again.spent.requests, again.spent.cached) == (0, 0, 6)
    assert again.spent.dollars(again._config) == 0
    assert len(server.asked) == 6
    # Another question, model or template is another reply.
    endpoint(server, tmp_path, model="other").verdicts(QUESTIONS[:1])
    assert len(server.asked) == 7


def test_a_damaged_file_of_the_cache_is_asked_again(server: Server, tmp_path: Path) -> None:
    endpoint(server, tmp_path).verdicts(QUESTIONS[:1])
    (kept,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    for content in ("", "[1]", '{"text": 3, "input_tokens": null, "output_tokens": null}'):
        kept.write_text(content)
        assert endpoint(server, tmp_path).verdicts(QUESTIONS[:1])[0].position == "first"
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    "trouble",
    [
        (500, b"oops", {}),
        (429, b"", {}),
        (503, b"<html>", {}),
        (200, b"\xff garbage", {}),
        (200, b"{}", {}),
        (200, b'{"choices": []}', {}),
        completion(None),
        (200, b"[" * 100_000, {}),
    ],
)
def test_what_may_pass_is_tried_again(
    server: Server, tmp_path: Path, trouble: tuple[int, bytes, dict[str, str]]
) -> None:
    server.script = [trouble, trouble]
    time = Time()
    judge = endpoint(server, tmp_path, time)
    assert judge.verdicts(QUESTIONS[:1])[0].position == "first"
    assert judge.spent.requests == 3
    assert judge.spent.replies == 1
    assert len(time.pauses) == 2
    assert 0.25 <= time.pauses[0] <= 0.5 <= time.pauses[1] <= 1


def test_the_pause_is_the_one_that_the_endpoint_asks_for_up_to_a_minute(
    server: Server, tmp_path: Path
) -> None:
    server.script = [(429, b"", {"Retry-After": value}) for value in ("7", "86400", "tomorrow")]
    time = Time()
    endpoint(server, tmp_path, time).verdicts(QUESTIONS[:1])
    assert time.pauses[:2] == [7, 60]
    assert 1 <= time.pauses[2] <= 2


def test_a_reply_that_does_not_come_is_a_time_out(server: Server, tmp_path: Path) -> None:
    server.always = (0, b"", {})
    (verdict,) = endpoint(server, tmp_path, retries=1, timeout_s=0.05).verdicts(QUESTIONS[:1])
    assert verdict.position is None
    assert verdict.reason == "no reply in 2 tries, the last: no reply in 0.05 s"


def test_a_question_without_a_reply_is_a_row_and_no_tie(server: Server, tmp_path: Path) -> None:
    server.script = [(500, b"oops", {})] * 2
    pairs = [Pair(str(i), f"q{i}", "x", "y") for i in range(3)]
    rows = judge_pairs(pairs, endpoint(server, tmp_path, retries=1))
    assert [row.outcome for row in rows] == [None, "tie", "tie"]
    assert rows[0].reason == "no reply in 2 tries, the last: status 500: oops"
    assert summarise(rows).failed == 1
    server.script = [(400, b"prompt too long", {})]
    (verdict,) = endpoint(server, tmp_path, model="other").verdicts(QUESTIONS[:1])
    assert verdict.reason == "status 400: prompt too long"


def test_a_malformed_verdict_is_a_row_and_is_known_the_next_time(
    server: Server, tmp_path: Path
) -> None:
    server.always = completion("I like both")
    for _ in range(2):
        judge = endpoint(server, tmp_path)
        (verdict,) = judge.verdicts(QUESTIONS[:1])
        assert verdict.reason == "the judge gave no verdict, its answer ends in 'I like both'"
        assert judge.spent.dollars(judge._config) is None
    assert len(server.asked) == 1


def test_a_cost_that_was_not_counted_is_unknown(server: Server, tmp_path: Path) -> None:
    server.script = [completion("A"), completion("B", prompt_tokens="many", completion_tokens=-1)]
    prices = {"dollars_per_million_input": 1.0, "dollars_per_million_output": 1.0}
    judge = endpoint(server, tmp_path, **prices)
    judge.verdicts(QUESTIONS[:3])
    assert judge.spent.uncounted == 2
    assert judge.spent.input_tokens == 100
    assert judge.spent.dollars(judge._config) is None


@pytest.mark.parametrize("code", [401, 403, 404, 302])
def test_what_cannot_pass_ends_all_with_one_message_without_the_key(
    server: Server, tmp_path: Path, code: int
) -> None:
    said = b"x" * 150 + f" wrong key {KEY} ".encode() + b"y" * 300
    server.always = (code, said, {"Location": f"{server.url}/elsewhere"})
    judge = endpoint(server, tmp_path, key_variable="JUDGE_KEY", concurrency=2)
    with pytest.raises(EndpointError, match=f"status {code}") as caught:
        judge.verdicts(QUESTIONS)
    assert "[key]" in str(caught.value)
    assert KEY[:6] not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions"}
    assert len(server.asked) <= 2


def test_a_refusal_that_breaks_shows_no_piece_of_the_key(server: Server, tmp_path: Path) -> None:
    said = f"400\r\nwrong key {KEY[:12]}".encode()
    server.always = (401, said, {"Transfer-Encoding": "chunked"})
    with pytest.raises(EndpointError, match="status 401; the key comes from JUDGE_KEY"):
        endpoint(server, tmp_path, key_variable="JUDGE_KEY").verdicts(QUESTIONS[:1])


def test_an_endpoint_that_is_down_is_one_message(server: Server, tmp_path: Path) -> None:
    judge = endpoint(server, tmp_path, retries=2)
    server.stop()
    with pytest.raises(EndpointError, match="5 questions in a row got no reply, the last: no conn"):
        judge.verdicts(QUESTIONS)
    assert judge.spent.requests == 15


def test_requests_keep_their_distance(server: Server, tmp_path: Path) -> None:
    time = Time()
    server.script = [(429, b"", {})]
    endpoint(server, tmp_path, time, requests_per_minute=30).verdicts(QUESTIONS[:3])
    assert len(server.asked) == 4
    assert time.now == pytest.approx(3 * 2)


@pytest.mark.parametrize(("value", "message"), [("", "is not set"), ("a b", "hold a valid key")])
def test_a_key_that_is_none_is_said_before_anything_is_asked(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ValueError, match=f"variable JUDGE_KEY .*{message}|JUDGE_KEY.*{message}"):
        endpoint(server, tmp_path, key_variable="JUDGE_KEY")
    assert not server.asked


def test_requests_go_through_the_proxy_of_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    judge = endpoint(server, tmp_path, url="http://judge.invalid/v1")
    assert judge.verdicts(QUESTIONS[:1])[0].position == "first"
    # The address is on the list of `no_proxy`.
    endpoint(server, tmp_path).verdicts(QUESTIONS[:1])
    asked = [path for path, _, _ in server.asked]
    assert asked == ["http://judge.invalid/v1/chat/completions", "/v1/chat/completions"]


def test_an_invalid_proxy_is_named_without_its_password(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "ftp://me:hunter2@proxy:1")
    judge = endpoint(server, tmp_path, url="http://judge.invalid/v1")
    with pytest.raises(EndpointError, match=r"proxy can't be used: .*ftp") as caught:
        judge.verdicts(QUESTIONS)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("length", [4_000_000, 4_000_001])
def test_a_reply_is_read_up_to_its_largest_size(
    server: Server, tmp_path: Path, length: int
) -> None:
    _, good, _ = completion("A")
    server.always = (200, good.ljust(length), {})
    (verdict,) = endpoint(server, tmp_path, retries=0).verdicts(QUESTIONS[:1])
    if length == 4_000_000:
        assert verdict.position == "first"
    else:
        assert str(verdict.reason).endswith("invalid reply: more than 4000000 bytes")


def test_a_slow_body_ends_at_the_time_limit(server: Server, tmp_path: Path) -> None:
    time = Time()
    judge = endpoint(server, tmp_path, time, retries=0, timeout_s=5)
    # Each look at the clock takes three seconds,.
    monotonic = iter(range(0, 100, 3))
    judge._chat._clock = lambda: float(next(monotonic))
    server.always = (200, completion("A")[1].ljust(1_000_000), {})
    (verdict,) = judge.verdicts(QUESTIONS[:1])
    assert verdict.reason == "no reply in 1 tries, the last: no reply in 5 s"


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"HTTP/1.1 ", b"2"),
        (OK, b"a: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"Content-Length: 999\r\n\r\n", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 999\r\n\r\n", b" "),
    ],
    ids=["status", "headers", "continue", "body", "chunks", "size", "trailers", "error"],
)
def test_a_reply_that_drips_ends_at_the_time_limit(
    tmp_path: Path, begin: bytes, drop: bytes
) -> None:
    with dripping(begin, drop, 0.05) as url:
        config = EndpointJudge.model_validate(
            {"kind": "endpoint", "url": url, "model": "m", "retries": 0, "timeout_s": 0.5}
        )
        # Without the limit, the time limit of this test ends it.
        (verdict,) = Endpoint(config, tmp_path).verdicts(QUESTIONS[:1])
    assert verdict.position is None
    error = "status 500" if b"500" in begin else "no reply in 0.5 s"
    assert verdict.reason == f"no reply in 1 tries, the last: {error}"


@pytest.mark.parametrize("place", ["http://%xn--a", ":http://]http:", "http://@.xn--", "//%xn--@"])
def test_a_redirect_to_no_address_is_an_invalid_reply(
    server: Server, tmp_path: Path, place: str
) -> None:
    server.always = (302, b"", {"Location": place})
    (verdict,) = endpoint(server, tmp_path, retries=0).verdicts(QUESTIONS[:1])
    assert verdict.position is None
    assert str(verdict.reason).startswith("no reply in 1 tries, the last: ")


def test_a_count_of_tokens_that_is_no_count_is_none(server: Server, tmp_path: Path) -> None:
    server.always = completion("A", prompt_tokens=10**4000, completion_tokens=1)
    prices = {"dollars_per_million_input": 1.0, "dollars_per_million_output": 1.0}
    judge = endpoint(server, tmp_path, **prices)
    assert judge.verdicts(QUESTIONS[:1])[0].position == "first"
    assert judge.spent.uncounted == 1
    assert judge.spent.dollars(judge._config) is None


def test_no_cookie_and_no_compression_is_taken(server: Server, tmp_path: Path) -> None:
    server.script = [(500, b"", {"Set-Cookie": "track=1; Path=/"})]
    endpoint(server, tmp_path).verdicts(QUESTIONS[:1])
    names = [{name.lower() for name in headers} for _, headers, _ in server.asked]
    assert len(names) == 2
    assert all("cookie" not in found for found in names)
    assert {headers["Accept-Encoding"] for _, headers, _ in server.asked} == {"identity"}


def test_a_loaded_module_does_not_load_the_client() -> None:
    import subprocess
    import sys

    code = "import sys, kilobit.evaluators.judges.endpoint; print('httpx2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_judge_behind_a_proxy_names_the_proxy(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    proxy = server.url.partition("//")[2].partition("/")[0]
    monkeypatch.setenv("http_proxy", f"http://me:secret@{proxy}")
    server.always = (503, b"no such host", {})
    inside = {"url": "http://judge.inside:8000/v1", "retries": 0}
    (verdict,) = endpoint(server, tmp_path, **inside).verdicts(QUESTIONS[:1])
    assert verdict.reason == (
        f"no reply in 1 tries, the last: status 503: no such host (by the proxy {proxy} of the "
        "environment; if it can't reach the judge, put judge.inside into no_proxy)"
    )
    # The refusal of a proxy looks like one of the endpoint.
    server.always = (403, b"denied", {})
    with pytest.raises(EndpointError, match=f"by the proxy {proxy} of the environment"):
        endpoint(server, tmp_path, **inside).verdicts(QUESTIONS[:1])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.always = (500, b"oops", {})
    (verdict,) = endpoint(server, tmp_path, retries=0).verdicts(QUESTIONS[:1])
    assert "proxy" not in (verdict.reason or "")
    assert all(path.startswith("http://judge.inside:8000/v1") for path, *_ in server.asked[:2])
