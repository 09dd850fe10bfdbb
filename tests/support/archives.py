"""Archives of pictures, as WebDataset, img2dataset, pandas and Hugging Face's `datasets` write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.pictures import picture


def jpeg(seed: int, size: tuple[int, int] = (48, 36)) -> bytes:
    """The bytes of a picture like no other."""
    buffer = io.BytesIO()
    picture(seed, size=size).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes | dict[str, Any] | str]) -> Path:
    """A tar of these members; a dict is written as JSON."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            raw = json.dumps(content).encode() if isinstance(content, dict) else content
            raw = raw.encode() if isinstance(raw, str) else raw
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def table(
    contents: Sequence[bytes | None], columns: Mapping[str, Sequence[Any]] | None = None, *, column: str = "jpg"
) -> pa.Table:
    """A table with pictures in a column of bytes."""
    arrays = {column: pa.array(contents, pa.binary()), **{name: pa.array(v) for name, v in (columns or {}).items()}}
    return pa.table(arrays)


def dataset_table(contents: Sequence[bytes], labels: Sequence[int], names: Sequence[str]) -> pa.Table:
    """A table as Hugging Face's `datasets` writes it: pictures as structs, classes by number."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": raw, "path": f"p{n}.jpg"} for n, raw in enumerate(contents)], kind)
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    made = pa.table({"image": pictures, "label": pa.array(labels, pa.int64())})
    about = json.dumps({"info": {"features": features}}).encode()
    return made.replace_schema_metadata({b"huggingface": about})


def write_parquet(path: Path, made: pa.Table, rows_per_group: int = 7, **options: Any) -> Path:
    """A Parquet file of several row groups."""
    pq.write_table(made, path, row_group_size=rows_per_group, **options)
    return path


def write_arrow(path: Path, made: pa.Table, *, stream: bool) -> Path:
    """An Arrow file; a stream, as `save_to_disk` writes it, or one that can be read in any order."""
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=5)
    return path
