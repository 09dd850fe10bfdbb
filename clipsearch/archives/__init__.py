"""Files that hold many pictures: tars as WebDataset has them, Parquet and Arrow tables with pictures in a column.

Their pictures are never unpacked into the collection: they are read where they are, and a copy of one that somebody
looks at goes to the cache. Nothing that they contain is run: no pickle is decoded, no extension type is looked up.
"""

from clipsearch.archives.listing import ARCHIVE_ENDINGS, Archive, Member, is_archive_name, open_archive
from clipsearch.archives.members import file_of, read_member

__all__ = [
    "ARCHIVE_ENDINGS",
    "Archive",
    "Member",
    "file_of",
    "is_archive_name",
    "open_archive",
    "read_member",
]
