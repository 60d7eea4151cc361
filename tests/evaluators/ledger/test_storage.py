"""Files on an object store, behind a proxy that fails, loses answers and cuts uploads."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kilobit.evaluators.ledger import stored_path
from kilobit.evaluators.ledger.compaction import begin, fold
from kilobit.evaluators.ledger.fencing import SupersededError
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.output_cache import Batch, PredictionCache
from kilobit.evaluators.ledger.storage import (
    check_exclusive,
    create_whole,
    place,
    write_whole,
)
from kilobit.evaluators.ledger.stored_path import StorageError, StoredPath
from tests.conftest import REPOSITORY
from tests.support.object_store import BUCKET, Proxy
from tests.support.rows import rows_of, write_rows

Store = Proxy


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://me:sesame@bucket/run", "no user name, password"),
        ("s3://bucket/run?secret=sesame", "no user name, password"),
        ("s3://bucket", "names no folder in a bucket"),
        ("s3://bucket/../other", "names no folder in a bucket"),
        ("memory://bucket/run", "not an object store that processes can share"),
        ("http://bucket/run", "not an object store that processes can share"),
    ],
)
def test_a_url_that_can_not_be_a_run_is_refused_without_its_secrets(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        place(url)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("fault", ["", "fail_every", "lose_every"])
def test_of_many_who_create_the_same_object_one_succeeds(
    store: Store, folder: StoredPath, fault: str
) -> None:
    if fault:
        setattr(store, fault, 3)
    start = threading.Barrier(8)

    def claim(number: int) -> bool:
        start.wait()
        try:
            create_whole(folder / "claim", f"by {number}".encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    assert won.count(True) == 1
    assert (folder / "claim").read_bytes() == f"by {won.index(True)}".encode()
    assert not fault or store.done["failed"] + store.done["lost"] > 0


def test_a_store_that_creates_what_exists_is_refused(
    folder: StoredPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_exclusive(folder)
    assert not list(folder.rglob("*"))
    monkeypatch.setattr(StoredPath, "create", StoredPath.write_bytes)
    with pytest.raises(StorageError, match="does not refuse to create an object that exists"):
        check_exclusive(folder)
    assert not list(folder.rglob("*"))


WRITER = """
import sys
from kilobit.evaluators.ledger.fencing import SupersededError
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import place
from kilobit.search.records import RungRecord

ledger = Ledger(place(sys.argv[1]), 1)
for number in range(8):
    name = f"{sys.argv[2]}-{number}"
    ledger.write(RungRecord, name, [RungRecord(candidate=name, rung=0, num_examples=1)])
"""


def test_writers_at_the_same_time_lose_nothing_on_a_store_that_fails(
    store: Store, folder: StoredPath
) -> None:
    store.fail_every, store.cut_every = 7, 5
    command = [sys.executable, "-c", WRITER, str(folder)]
    writers = [subprocess.Popen([*command, f"w{i}"], cwd=REPOSITORY) for i in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert (store.done["failed"] > 0, store.done["cut"] > 0) == (True, True)
    found = sorted(row["candidate"] for row in rows_of(Ledger(folder), "rungs"))
    assert found == [f"w{i}-{number}" for i in range(3) for number in range(8)]


def test_an_older_attempt_that_writes_late_is_not_seen_on_a_store(folder: StoredPath) -> None:
    claims = folder / "attempts"
    create_whole(claims / "0001.json", b"1")
    old = Ledger(folder, 1)
    content = write_rows(old, "rungs", "a-r0", [{"candidate": "a", "rung": 0}]).read_bytes()
    create_whole(claims / "0002.json", b"2")
    begin(folder, 2)
    with pytest.raises(SupersededError, match="superseded by attempt 2"):
        write_rows(old, "rungs", "late-r0", [{"candidate": "late"}])
    # It had looked before the newer attempt was claimed, and its put came after.
    write_whole(old.part("rungs", "late-r0"), content)
    assert [row["candidate"] for row in rows_of(Ledger(folder), "rungs")] == ["a"]


def test_a_resume_does_not_read_a_store_part_by_part(store: Store, folder: StoredPath) -> None:
    create_whole(folder / "attempts" / "0001.json", b"1")
    ledger = Ledger(folder, 1)
    names = [f"{number:03}-r0" for number in range(30)]

    def write(name: str) -> None:
        for table in ("candidates", "rungs", "decisions"):
            write_rows(ledger, table, name, [{"candidate": name}])
        write_rows(ledger, "predictions", name, [{"candidate": name, "output": "x"}])
        write_rows(ledger, "programs", name, [{"candidate": name}])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, names))
    fold(ledger)
    create_whole(folder / "attempts" / "0002.json", b"2")
    store.calm()
    assert begin(folder, 2) == []
    reader = Ledger(folder)
    assert [row["candidate"] for row in rows_of(reader, "rungs")] == names
    assert len(rows_of(reader, "decisions")) == 30
    # Five tables of 30 parts; what is asked does not grow with their number.
    assert store.done["requests"] < 40


def test_a_part_that_is_gone_is_left_out_and_named(folder: StoredPath) -> None:
    create_whole(folder / "attempts" / "0001.json", b"1")
    ledger = Ledger(folder, 1)
    for name in ("a-r0", "b-r0"):
        write_rows(ledger, "predictions", name, [{"candidate": name[0], "output": "x"}])
        write_rows(ledger, "rungs", name, [{"candidate": name[0], "rung": 0, "score": 0.5}])
    (folder / "predictions" / "a-r0.a1.parquet").unlink()
    create_whole(folder / "attempts" / "0002.json", b"2")
    assert [line.split(": ")[-1] for line in begin(folder, 2)] == ["the file is gone"]
    assert [row["candidate"] for row in rows_of(Ledger(folder), "rungs")] == ["b"]


def test_the_cache_of_outputs_may_lie_on_a_store(folder: StoredPath) -> None:
    first = PredictionCache(folder).open("ab12")
    first.add(["x", "y"], Batch(("1", "2"), 3, 4))
    first.save()
    assert PredictionCache(folder).open("ab12").get(["x", "y"]) == Batch(("1", "2"), 3, 4)
    assert PredictionCache(folder).open("ab13").get(["x", "y"]) is None


def test_what_lasts_is_one_message_that_says_what_to_do(
    store: Store, folder: StoredPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(path: StoredPath) -> str:
        stored_path._store.cache_clear()
        with pytest.raises(StorageError) as caught:
            path.reach()
        with pytest.raises(StorageError):
            write_whole(path / "x", b"")
        assert "\n" not in str(caught.value)
        assert "sesame" not in str(caught.value)
        return str(caught.value)

    assert message(StoredPath("s3:", "no-such-bucket", "x")).startswith(
        "there is no bucket s3://no"
    )
    monkeypatch.setattr(stored_path, "_MOST_RETRIES", 1)
    store.fail_every = 1
    assert "answers 500 InternalError, tried 4 times" in message(folder)
    store.fail_every = 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:sesame@127.0.0.1:9")
    assert "no answer at http://127.0.0.1:9, tried 4 times: check the network" in message(folder)


def test_wrong_credentials_are_one_message(
    store: Store, folder: StoredPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    stored_path._store.cache_clear()
    if "KILOBIT_S3" in os.environ:
        pytest.skip("moto looks at no credentials")
    with pytest.raises(StorageError, match=r"refuses access.*check the credentials"):
        folder.reach()
    with pytest.raises(StorageError, match="refuses access"):
        (folder / "x").exists()


def test_without_obstore_the_message_says_what_to_install(
    folder: StoredPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    stored_path._store.cache_clear()
    with pytest.raises(StorageError, match=r"pip install 'kilobit\[store\]'"):
        folder.reach()


def test_nothing_of_the_credentials_is_written(store: Store, folder: StoredPath) -> None:
    ledger = Ledger(folder, 1)
    write_rows(ledger, "rungs", "a", [{"candidate": "a"}])
    whole = b"".join(path.read_bytes() for path in folder.rglob("*"))
    assert b"test-secret" not in whole
    assert json.dumps(BUCKET).encode() not in whole
