"""A file is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsearch.replacing import replacing


@pytest.mark.parametrize("synced", [False, True])
def test_the_old_content_stays_until_all_is_written(tmp_path: Path, synced: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path, synced=synced) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), replacing(path, synced=synced) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
