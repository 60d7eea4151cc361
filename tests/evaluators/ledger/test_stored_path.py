import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kilobit.evaluators.ledger import stored_path
from kilobit.evaluators.ledger.storage import (
    fetch,
    place,
    remove,
    write_whole,
)
from kilobit.evaluators.ledger.stored_path import StorageError, StoredPath, _store
from tests.support import object_store
from tests.support.object_store import Proxy

Store = Proxy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make large what is small and short what is long."""
    monkeypatch.setattr(stored_path, "_ONE_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(stored_path, "_CHUNK_BYTES", 5 << 20)


def test_a_url_keeps_its_form_through_everything_that_is_done_to_paths() -> None:
    run = place("s3://bucket/runs//one/")
    assert isinstance(run, StoredPath)
    assert str(run) == f"{run}" == "s3://bucket/runs/one"
    assert str(run / "ledger" / "x.json") == "s3://bucket/runs/one/ledger/x.json"
    assert str((run / "a.json").with_suffix(".alive")) == "s3://bucket/runs/one/a.alive"
    assert (run.name, str(run.parent), run.bucket) == ("one", "s3://bucket/runs", "s3://bucket")
    assert (run / "x").relative_to(run).as_posix() == "x"
    assert pickle.loads(pickle.dumps(run)) == run == place(str(run)) == place(run)
    assert {run: 1}[StoredPath("s3:", "bucket", "runs", "one")] == 1
    assert place("runs/one") == Path("runs/one")


def test_what_is_written_is_read_listed_and_deleted(folder: StoredPath) -> None:
    for name in ("a/1.json", "a/2.json", "a/b/3.json", "ab/4.json"):
        write_whole(folder / name, name.encode())
    assert sorted(p.name for p in (folder / "a").glob("*.json")) == ["1.json", "2.json"]
    assert sorted(p.name for p in folder.glob("*/*")) == ["1.json", "2.json", "4.json"]
    assert len(list(folder.rglob("*"))) == 4
    one = folder / "a" / "1.json"
    assert (one.exists(), one.stat().st_size, one.read_text()) == (True, 8, "a/1.json")
    assert abs(one.stat().st_mtime_ns - (folder / "a" / "2.json").stat().st_mtime_ns) < 3e9
    assert one.rename(folder / "a" / "moved").read_bytes() == b"a/1.json"
    assert not one.exists()
    with pytest.raises(FileNotFoundError, match=r"s3://.*/a/1\.json"):
        one.read_bytes()
    with pytest.raises(FileNotFoundError):
        one.unlink()
    one.unlink(missing_ok=True)
    remove(folder.rglob("*"))
    assert list(folder.rglob("*")) == []


def test_more_objects_than_a_page_are_listed_read_and_deleted(
    store: Store, folder: StoredPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PAGE", 20)
    paths = [folder / f"{number:04}" for number in range(50)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda path: write_whole(path, path.name.encode()), paths))
    assert sorted(folder.glob("*")) == paths
    assert fetch([*paths, folder / "gone"]) == {path: path.name.encode() for path in paths}
    before = store.done["requests"]
    remove(paths)
    assert store.done["requests"] - before <= 2
    assert not list(folder.glob("*"))


def test_an_upload_that_is_cut_is_seen_by_nobody_and_tried_again(
    store: Store, folder: StoredPath
) -> None:
    path, stop, seen = folder / "object", threading.Event(), set[bytes]()
    old, new = b"a" * 200_000, b"b" * 200_000
    write_whole(path, old)

    def look() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    store.cut_every = 2
    for _ in range(4):
        write_whole(path, new)
        write_whole(path, old)
    stop.set()
    reader.join()
    assert store.done["cut"] >= 4
    assert seen <= {old, new}


def test_a_large_object_goes_in_pieces_and_appears_whole_despite_cuts(
    store: Store, folder: StoredPath, quick: None
) -> None:
    content = bytes(range(256)) * 60_000
    store.cut_every, store.fail_every = 3, 5
    write_whole(folder / "large", content)
    assert store.done["uploads"] >= 3
    assert (store.done["cut"] > 0, store.done["failed"] > 0) == (True, True)
    store.calm()
    assert (folder / "large").read_bytes() == content


@pytest.mark.parametrize("fault", ["fail_every", "lose_every", "cut_every"])
def test_what_fails_for_a_moment_is_not_noticed(
    store: Store, folder: StoredPath, fault: str
) -> None:
    setattr(store, fault, 3)
    for number in range(6):
        write_whole(folder / f"{number}", b"content")
    assert [(folder / f"{number}").read_bytes() for number in range(6)] == [b"content"] * 6
    assert len(list(folder.glob("*"))) == 6
    remove(folder.glob("*"))
    assert not (folder / "0").exists()
    assert store.done[{"fail_every": "failed", "lose_every": "lost", "cut_every": "cut"}[fault]]


ADDRESS = "has to be an address such as http://HOST:PORT, or not to be set"


@pytest.mark.parametrize(
    ("bucket", "name", "value", "problem"),
    [
        ("s3://b", "AWS_ENDPOINT_URL", "minio:9000", ADDRESS),
        ("s3://b", "AWS_ENDPOINT_URL", "127.0.0.1:9000", ADDRESS),
        ("s3://b", "AWS_ENDPOINT_URL", "", ADDRESS),
        ("s3://b", "AWS_ENDPOINT_URL", "http://", ADDRESS),
        ("s3://b", "AWS_ENDPOINT_URL", "http://127.0.0.1:1 ", ADDRESS),
        ("s3://b", "AWS_ENDPOINT_URL", "http://127.0.0.1:70000", ADDRESS),
        ("s3://b", "AWS_ENDPOINT_URL", "ftp://127.0.0.1:1", ADDRESS),
        ("s3://b", "AWS_ENDPOINT_URL_S3", "minio:9000", ADDRESS),
        ("s3://b", "AWS_ENDPOINT", "minio", ADDRESS),
        ("az://b", "AZURE_STORAGE_ENDPOINT", "azurite:10000", ADDRESS),
        ("s3://b", "AWS_ACCESS_KEY_ID", "secret\n", "AWS_ACCESS_KEY_ID holds a line break"),
        ("s3://b", "AWS_SESSION_TOKEN", "secret\nmore", "AWS_SESSION_TOKEN holds a line break"),
    ],
)
def test_a_variable_that_the_library_panics_about_is_named(
    monkeypatch: pytest.MonkeyPatch, bucket: str, name: str, value: str, problem: str
) -> None:
    _store.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(
        StorageError, match=rf"^{bucket}: the environment variable {name} "
    ) as error:
        StoredPath(f"{bucket}/runs").reach()
    assert problem in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("when", ["making", "asking"])
def test_a_panic_of_the_library_is_one_message(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    class PanicException(BaseException):
        """As obstore's, which can't be imported."""

    class Panics:
        def head(self, _: str) -> None:
            raise PanicException("called `Result::unwrap()` on an `Err` value: ()\n  at line 3")

    def from_url(*_: object, **__: object) -> Panics:
        if when == "making":
            Panics().head("")
        return Panics()

    _store.cache_clear()
    monkeypatch.setattr("obstore.store.from_url", from_url)
    with pytest.raises(StorageError) as error:
        StoredPath("az://b/runs").exists()
    _store.cache_clear()
    assert str(error.value) == (
        "az://b can't be used: obstore failed (called `Result::unwrap()` on an `Err` value: ()); "
        "check the environment (AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, and "
        "addresses)"
    )


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[StoredPath]:
    """Yield a folder of a store that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
            "KILOBIT_STORE_PATIENCE_S": "2",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        _store.cache_clear()
        yield StoredPath("s3:", "bucket", "run")
        _store.cache_clear()


@pytest.mark.parametrize(
    "ask",
    [
        StoredPath.reach,
        StoredPath.read_bytes,
        lambda path: path.write_bytes(b"x"),
        lambda path: list(path.rglob("*")),
        lambda path: path.unlink_all([path]),
    ],
    ids=["reach", "read", "write", "list", "delete"],
)
def test_a_silent_store_is_told_within_its_patience(
    silent: StoredPath, ask: Callable[[StoredPath], object]
) -> None:
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://bucket: no answer at http://127\.0\.0\.1"):
        ask(silent)
    # Patience, one request that began within it, and a loaded machine.
    assert 1 <= time.monotonic() - began < 15


@pytest.mark.parametrize("value", ["0", "soon", "nan", "", "1e9"])
def test_a_wrong_patience_is_refused(
    silent: StoredPath, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("KILOBIT_STORE_PATIENCE_S", value)
    with pytest.raises(StorageError, match="KILOBIT_STORE_PATIENCE_S has to be 1 to 86400 sec"):
        silent.reach()
