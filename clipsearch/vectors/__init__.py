"""Segments, exact search and inverted files. The only importer of faiss, and only where there is an inverted file."""

from clipsearch.vectors.directions import directed
from clipsearch.vectors.files import BinaryWriter, VectorsFile, check_vectors, write_vectors
from clipsearch.vectors.segments import (
    IVF_FROM_ROWS,
    Share,
    VectorSegment,
    check_queries,
    distinct,
    empty_result,
    merge,
    open_segments,
    top_k,
)

__all__ = [
    "IVF_FROM_ROWS",
    "BinaryWriter",
    "Share",
    "VectorSegment",
    "VectorsFile",
    "check_queries",
    "check_vectors",
    "directed",
    "distinct",
    "empty_result",
    "merge",
    "open_segments",
    "top_k",
    "write_vectors",
]
