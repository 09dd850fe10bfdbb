from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.npy import read_array, read_header


def saved(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.sampled_from(["<f2", "<f4", "<f8", "<i4", "<i8"]))
def test_it_reads_what_numpy_writes(shape: list[int], dtype: str) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    again = read_array(io.BytesIO(saved(array)))
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x" * 200,
        saved(np.arange(5))[:-1],
        saved(np.arange(5))[:60],
        saved(np.asfortranarray(np.ones((2, 3)))),
        saved(np.array(["text"])),
        saved(np.zeros(2, [("a", "<i8")])),
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is not|its NumPy header|it is cut short"):
        read_array(io.BytesIO(raw))


def test_many_threads_may_read_at_once() -> None:
    raw = saved(np.ones((3, 4), np.float32))
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(2000):
                assert read_header(io.BytesIO(raw)) == (np.dtype("<f4"), (3, 4))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
