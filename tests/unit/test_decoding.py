"""The decode pool: results, back-pressure, follow-ups, and what a bad worker costs."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from clipsearch.errors import ClipsearchError
from clipsearch.pictures.images import read_picture
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask
from clipsearch.records import Preprocessing
from tests.support.cases import thinned

PREPROCESSING = Preprocessing(32, 48, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_mode="squash")

# A worker that obeys file names: it crashes, hangs, talks nonsense or answers.
FAKE_WORKER = textwrap.dedent("""
    import json, os, signal, sys, time
    from clipsearch.pictures.worker import attach_memory, receive, send
    from clipsearch.records import OUT_OF_MEMORY
    settings = json.loads(sys.argv[1])
    size = settings["preprocessing"]["height"] * settings["preprocessing"]["width"] * 3
    memory = attach_memory(settings["memory"], settings["memory_bytes"])
    send(sys.stdout.buffer, {"ready": True})
    harm = done = 0
    while (task := receive(sys.stdin.buffer)) is not None:
        name = os.path.basename(task["path"])
        if harm == 1 or ("killer" in name and done):
            os.kill(os.getpid(), signal.SIGSEGV)
        harm -= harm > 0
        harm = 1 if "poison" in name else 2 if "spoiler" in name else harm
        done += 1
        if "slowread" in name:
            time.sleep(0.9)
        send(sys.stdout.buffer, {"read": True})
        if "crash" in name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in name:
            os._exit(3)
        if "hang" in name:
            time.sleep(3600)
        if "nonsense" in name:
            send(sys.stdout.buffer, {"skip": ["no such status", ""]})
            continue
        if "garbage" in name:
            sys.stdout.buffer.write(b"libfoo: warning: what a strange picture"); sys.stdout.buffer.flush()
            continue
        if "hungry" in name and done > 1:
            send(sys.stdout.buffer, {"hash": name, "skip": ["too_large", OUT_OF_MEMORY]})
            continue
        start = task["slot"] * size
        number = 255 if harm == 1 and "poison" not in name else int(name.split("-")[-1]) % 251
        memory[start:start + size] = bytes([number]) * size
        send(sys.stdout.buffer, {"hash": name, "width": 1, "height": 2, "metadata": {"format": "JPEG"}})
""")


def fake_pool(workers: int = 2, timeout_s: float = 1.0, *, single_use: bool = False) -> DecodePool:
    command = [sys.executable, "-c", FAKE_WORKER]
    return DecodePool(PREPROCESSING, workers=workers, timeout_s=timeout_s, command=command, single_use=single_use)


def wait_until_gone(pids: list[int], timeout_s: float = 120.0) -> bool:
    def alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        status = Path(f"/proc/{pid}/stat")  # a zombie whose new parent is slow to reap it counts as gone
        return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")

    end = time.monotonic() + timeout_s
    while any(map(alive, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.{'jpg' if index % 2 else 'png'}" for index in range(40)]
    for index, path in enumerate(paths):
        rng = np.random.default_rng(index)
        Image.fromarray(rng.integers(0, 256, (60 + index, 90, 3), dtype=np.uint8)).save(path)
    return paths


def tasks_of(paths: list[Path]) -> Iterator[DecodeTask]:
    return (DecodeTask(index, str(path)) for index, path in enumerate(paths))


def test_results_equal_decoding_in_process(photos: list[Path]) -> None:
    with DecodePool(PREPROCESSING, workers=2) as pool:
        results = {result.key: result for result in pool.run(tasks_of(photos))}
        assert pool.pending == 0
        assert len(pool.worker_pids()) == 2
    assert sorted(results) == list(range(len(photos)))
    for index, path in enumerate(photos):  # also shows that no later picture overwrites the pixels
        expected, result = read_picture(path, PREPROCESSING), results[index]
        assert result.pixels is not None
        assert np.array_equal(result.pixels, expected.pixels)
        assert result.content_hash == expected.content_hash
        assert (result.width, result.height, result.metadata) == (expected.width, expected.height, expected.metadata)
        assert result.skip is None


@pytest.mark.slow
def test_parts_of_one_large_file_decode_as_files_do(photos: list[Path], tmp_path: Path) -> None:
    joined = tmp_path / "joined.bin"
    contents = [path.read_bytes() for path in photos]
    joined.write_bytes(b"".join(contents))
    offsets = [sum(map(len, contents[:index])) for index in range(len(contents))]
    tasks = [
        DecodeTask(index, str(joined), size_bytes=len(content), member=photos[index].name, offset=offsets[index])
        for index, content in enumerate(contents)
    ]
    cut = DecodeTask(40, str(joined), size_bytes=len(contents[0]), member="cut.png", offset=offsets[-1] + 100)
    gone = DecodeTask(41, str(tmp_path / "gone.bin"), size_bytes=10, member="a.png")
    with DecodePool(PREPROCESSING, workers=2) as pool:
        results = {result.key: result for result in pool.run([*tasks, cut, gone])}
    for index, path in enumerate(photos):
        expected, pixels = read_picture(path, PREPROCESSING), results[index].pixels
        assert pixels is not None
        assert np.array_equal(pixels, expected.pixels)
        assert results[index].content_hash == expected.content_hash
    assert results[40].skip == ("truncated", "the file ends before the picture does")
    assert results[41].skip == ("unreadable", "no such file or directory")


@pytest.mark.slow
def test_hash_then_decode_what_is_new(photos: list[Path]) -> None:
    known = {xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in photos[::2]}
    decoded, hashed = set(), set()
    with DecodePool(PREPROCESSING, workers=2) as pool:
        for result in pool.run(DecodeTask(i, str(p), "hash", p.stat().st_size) for i, p in enumerate(photos)):
            if result.pixels is not None:
                decoded.add(result.key)
            else:
                hashed.add(result.key)
                if result.content_hash not in known:
                    pool.submit(DecodeTask(result.key, str(photos[result.key])))
    assert hashed == set(range(40))
    assert decoded == set(range(1, 40, 2))


def test_submit_and_next_result(photos: list[Path]) -> None:
    with DecodePool(PREPROCESSING, workers=1) as pool:
        assert pool.next_result() is None
        assert pool.worker_pids() == []  # none is started for nothing
        pool.submit(DecodeTask(7, str(photos[0])))
        assert pool.pending == 1
        result = pool.next_result()
        assert result is not None
        assert (result.key, pool.pending) == (7, 0)
    with pytest.raises(ValueError, match="closed"):
        pool.submit(DecodeTask(8, str(photos[0])))


@pytest.mark.slow
def test_tasks_are_pulled_as_needed(photos: list[Path]) -> None:
    pulled = 0

    def endless() -> Iterator[DecodeTask]:
        nonlocal pulled
        while True:
            yield DecodeTask(pulled, str(photos[pulled % 40]))
            pulled += 1

    with DecodePool(PREPROCESSING, workers=1) as pool:
        results = pool.run(endless())
        for count in range(1, 20):
            next(results)
            assert pulled <= count + pool.capacity


@pytest.mark.slow
def test_decoding_goes_on_while_the_caller_is_busy(photos: list[Path]) -> None:
    with DecodePool(PREPROCESSING, workers=1) as pool:
        for task in tasks_of(photos):
            pool.submit(task)
        end = time.monotonic() + 120
        while pool._shared.results.qsize() < 40 and time.monotonic() < end:
            time.sleep(0.01)
        assert pool._shared.results.qsize() == 40


@pytest.mark.slow
def test_skips(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (300, 300)).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    names = ["text.jpg", "empty.jpg", "cut.png", "gone.png"]
    with DecodePool(PREPROCESSING, workers=2) as pool:
        results = {result.key: result for result in pool.run(tasks_of([tmp_path / name for name in names]))}
    skips = [results[key].skip for key in range(4)]
    assert [skip and skip[0] for skip in skips] == ["not_a_picture", "empty", "truncated", "unreadable"]
    assert results[2].content_hash == xxhash.xxh3_128_hexdigest(data[: len(data) // 2])
    assert results[0].content_hash is None


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe\n\r '\".jpg")
    try:
        with open(path, "wb") as file:
            Image.new("RGB", (40, 40)).save(file, "JPEG")
    except OSError:
        pytest.skip("this file system wants UTF-8")
    with DecodePool(PREPROCESSING, workers=1) as pool:
        assert [result.skip for result in pool.run([DecodeTask(0, path)])] == [None]


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("trouble", thinned(["crash", "exit", "hang", "nonsense", "garbage"], 2))
def test_a_bad_picture_costs_only_itself(trouble: str) -> None:
    """Those queued behind it in the same worker are done by the next one."""
    names = [f"{trouble if index % 7 == 3 else 'good'}-{index}" for index in range(24)]
    with fake_pool() as pool:
        results = {r.key: r for r in pool.run(DecodeTask(index, name) for index, name in enumerate(names))}
    assert sorted(results) == list(range(24))
    for index, name in enumerate(names):
        result = results[index]
        if name.startswith("good"):
            assert result.skip is None
            assert result.content_hash == name
            assert result.pixels is not None
            assert (result.pixels == index % 251).all()
        else:
            assert result.skip is not None
            assert result.skip[0] == ("timeout" if trouble == "hang" else "decoder_crashed")
    if trouble == "crash":
        assert results[3].skip == ("decoder_crashed", "the process that decoded it was ended by SIGSEGV")


@pytest.mark.few(each="trouble workers")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize(
    ("trouble", "workers"), thinned(itertools.product(["poison", "spoiler", "killer", "hungry"], [1, 2]), 3)
)
def test_no_picture_is_blamed_for_what_another_one_did(trouble: str, workers: int) -> None:
    """A poison harms the process that decodes the next picture, and a spoiler falsifies the next before that; a killer
    and a hungry one do not bear to come second. Alone, all of them are read, and so is every other picture."""
    names = [f"{trouble if index % 7 == 3 else 'good'}-{index}" for index in range(24)]
    with fake_pool(workers) as pool:
        results = {r.key: r for r in pool.run(DecodeTask(index, name) for index, name in enumerate(names))}
    assert sorted(results) == list(range(24))
    for index, name in enumerate(names):
        pixels = results[index].pixels
        assert results[index].skip is None, name
        assert pixels is not None
        if trouble != "spoiler" or index % 7 != 3:
            assert (pixels == index % 251).all(), name


def test_a_worker_that_was_killed_at_work_harms_no_picture() -> None:
    """Whoever ended it (for memory, say): its picture is tried once more."""
    with fake_pool(1, timeout_s=60) as pool:
        pool.submit(DecodeTask(0, "slowread-0"))
        end = time.monotonic() + 120
        while not pool.worker_pids() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.4)  # it starts, and reads for 0.9 s
        os.kill(pool.worker_pids()[0], signal.SIGKILL)
        result = pool.next_result()
    assert result is not None
    assert result.skip is None


@pytest.mark.slow
def test_each_picture_of_a_stranger_has_a_process_of_its_own() -> None:
    names = [f"{'poison' if index % 2 else 'crash' if index % 6 == 0 else 'spoiler'}-{index}" for index in range(12)]
    seen: set[int] = set()
    with fake_pool(2, single_use=True) as pool:
        for index, name in enumerate(names):
            pool.submit(DecodeTask(index, name))
            seen.update(pool.worker_pids())
            result = pool.next_result()
            assert result is not None
            assert (result.skip is None) == ("crash" not in name), name
    assert len(seen) >= 6


def test_a_task_may_have_more_time_than_others() -> None:
    with fake_pool(1, timeout_s=0.3) as pool:
        pool.submit(DecodeTask(0, "slowread-0"))
        pool.submit(DecodeTask(1, "slowread-1", timeout_s=120))
        results = {result.key: result for result in (pool.next_result(), pool.next_result()) if result is not None}
    assert results[0].skip == ("timeout", "took longer than 0.3 s")
    assert results[1].skip is None


@pytest.mark.slow
def test_pieces_and_what_is_missing_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, size in {"wide.png": (600, 60), "tall.jpg": (50, 2000), "square.png": (90, 80)}.items():
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / name)
    whole = (tmp_path / "square.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) * 2 // 3])
    paths = [tmp_path / name for name in ("wide.png", "tall.jpg", "square.png", "cut.png")]
    with DecodePool(PREPROCESSING, workers=2, pieces=True) as pool:
        results = {result.key: result for result in pool.run(tasks_of(paths))}
    for index, path in enumerate(paths):
        expected, pieces = read_picture(path, PREPROCESSING, pieces=True), results[index].pieces
        assert pieces is not None
        assert np.array_equal(pieces, expected.pieces)
        assert results[index].partial == expected.partial
    assert [len(results[index].pieces) for index in range(4)] == [13, 32, 1, 1]  # type: ignore[arg-type]
    assert results[3].partial == "the PNG ends before the picture does"


def test_reading_has_its_own_time() -> None:
    """Reading and decoding are timed apart, and a large file may take longer to arrive."""
    with fake_pool(workers=1, timeout_s=0.5) as pool:
        tasks = [DecodeTask(0, "slowread-0"), DecodeTask(1, "slowread-1", size_bytes=1_000_000)]
        results: dict[int, DecodeResult] = {result.key: result for result in pool.run(tasks)}
    skip = results[0].skip
    assert skip is not None
    assert skip[0] == "timeout"
    assert results[1].skip is None


@pytest.mark.slow
def test_workers_killed_from_outside(photos: list[Path]) -> None:
    """An idle worker that is killed costs nothing."""
    with DecodePool(PREPROCESSING, workers=1) as pool:
        for index in range(3):
            pool.submit(DecodeTask(index, str(photos[index])))
            result = pool.next_result()
            assert result is not None
            assert result.skip is None
            [pid] = pool.worker_pids()
            os.kill(pid, signal.SIGKILL)
            assert wait_until_gone([pid])


def test_workers_that_cannot_start() -> None:
    program = "import sys; sys.exit('ImportError: something is missing')"
    with DecodePool(PREPROCESSING, workers=2, command=[sys.executable, "-c", program]) as pool:
        pool.submit(DecodeTask(0, "x"))
        with pytest.raises(ClipsearchError, match="something is missing"):
            pool.next_result()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_limit(tmp_path: Path) -> None:
    Image.new("RGB", (12_000, 12_000)).save(tmp_path / "large.png", compress_level=1)
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    with DecodePool(PREPROCESSING, workers=1, memory_limit_bytes=300 * 2**20) as pool:
        results = list(pool.run(tasks_of([tmp_path / "large.png", tmp_path / "small.png"])))
    assert results[0].skip is not None
    assert results[0].skip[0] == "too_large"
    assert results[1].skip is None


def test_close_ends_workers_at_work() -> None:
    pool = fake_pool(timeout_s=60)
    for index in range(10):
        pool.submit(DecodeTask(index, "hang"))
    end = time.monotonic() + 120
    while len(pool.worker_pids()) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    pids = pool.worker_pids()
    assert len(pids) == 2
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 20
    assert wait_until_gone(pids, 0)
    pool.close()  # twice is fine


@pytest.mark.slow
def test_a_forgotten_pool_closes_itself(photos: list[Path]) -> None:
    pool = DecodePool(PREPROCESSING, workers=1)
    pool.submit(DecodeTask(0, str(photos[0])))
    pool.next_result()
    pids = pool.worker_pids()
    del pool
    gc.collect()
    assert wait_until_gone(pids)


SCRIPT = """
import sys, time
from clipsearch.pictures.pool import DecodePool, DecodeTask
from clipsearch.records import Preprocessing
pool = DecodePool(Preprocessing(32, 48, (0, 0, 0), (1, 1, 1)), workers=2)
for number in range(8):
    pool.submit(DecodeTask(number, sys.argv[1]))
for number in range(8):
    assert pool.next_result().skip is None
print(*pool.worker_pids(), flush=True)
"""


@pytest.mark.slow
def test_script_without_a_main_guard_that_forgets_to_close(photos: list[Path]) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT, str(photos[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) >= 1
    assert wait_until_gone(pids)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_no_orphans_after_sigkill(photos: list[Path]) -> None:
    script = SCRIPT + "time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script, str(photos[0])], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert pids
        process.kill()
    assert wait_until_gone(pids)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_is_the_parents(photos: list[Path]) -> None:
    with DecodePool(PREPROCESSING, workers=1) as pool:
        assert [r.skip for r in pool.run(tasks_of(photos[:2]))] == [None, None]
        [pid] = pool.worker_pids()
        os.kill(pid, signal.SIGINT)
        assert [r.skip for r in pool.run(tasks_of(photos[2:4]))] == [None, None]
        assert pool.worker_pids() == [pid]


def test_the_current_folder_is_not_imported_from(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (photos[0].parent / "json.py").write_text("raise SystemExit('a module among the photos')")
    monkeypatch.chdir(photos[0].parent)
    with DecodePool(PREPROCESSING, workers=1) as pool:
        assert [r.skip for r in pool.run(tasks_of(photos[:1]))] == [None]
