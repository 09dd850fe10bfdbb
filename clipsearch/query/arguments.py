"""What is asked for beside a query: numbers of any library become Python's; anything else is an error that names it.

A local collection, a remote one, the HTTP API, assistants and the page read their arguments here, so that all take,
and refuse, the same ones, in the same words. What no query has (a folder, a picture, an address) is an
InvalidArgument.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from clipsearch.errors import InvalidArgument, InvalidQuery, NoSuchPicture, no_picture
from clipsearch.filenames import to_bytes
from clipsearch.query import LENGTH_LIMIT, Query, check_length
from clipsearch.records import Sort

if TYPE_CHECKING:
    from clipsearch.records import AnyPicture, FloatArray

MOST_EXAMPLES = 10_000
"""Row ids in `like` or `unlike` of one search."""
FARTHEST = 2**53
"""More than any index has: a larger `k` or `offset` means the same."""
MOST_AT_ONCE = 10_000  # hits that a server returns for one request
MOST_TEXTS = 256  # and so on, of one request
MOST_VECTORS = 1000
MOST_DIMENSIONS = 8192
LARGEST_ROW_ID = 2**63 - 1
LONGEST_ID = 19  # digits
SORTS: tuple[Sort, ...] = get_args(Sort)
A_PICTURE = "a hit, a row id or the path of a picture"
Size = Literal[128, 256, 512, 1024, 2048, 4096]  # of a thumbnail
THUMBNAIL_SIZES: tuple[Size, ...] = get_args(Size)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a search is asked for beside its query, in Python's own types. `vector`: shape (D,), float64."""

    sort: Sort
    unique: bool
    diverse: bool | float
    like: tuple[int, ...]
    unlike: tuple[int, ...]
    vector: FloatArray | None
    all: bool
    min_confidence: float | None
    each: bool = False


def read_arguments(
    *,
    sort: object,
    unique: object,
    diverse: object,
    like: object,
    unlike: object,
    vector: object,
    all: object,
    min_confidence: object,
    each: object = False,
) -> Arguments:
    """The arguments of a search, checked. Raises: InvalidQuery."""
    read = Arguments(
        read_sort(sort),
        read_switch("unique", unique),
        read_diversity(diverse),
        read_examples("like", like),
        read_examples("unlike", unlike),
        read_vector(vector),
        read_switch("all", all),
        read_confidence(min_confidence),
        read_switch("each", each),
    )
    if read.min_confidence is not None and read.all:
        raise InvalidQuery("use all or min_confidence, not both")
    return read


def read_given(given: Mapping[Any, Any], names: Iterable[str]) -> dict[Any, Any]:
    """A request with those of its fields read that a search in Python has too. Raises: InvalidQuery, NoSuchPicture."""
    known = set(names)
    wanted = {
        name: read
        for name, read in _READERS.items()  # in this order, as a collection does: the first fault is told
        if name in known and name in given and (given[name] is not None or name not in _MAY_BE_NONE)
    }
    found = {**given, **{name: read(given[name]) for name, read in wanted.items()}}
    return found | ({"vector": found["vector"].tolist()} if "vector" in wanted else {})


def read_window(k: object, offset: object = 0) -> tuple[int, int]:
    """How many hits are wanted, and from which number on. Raises: InvalidQuery."""
    return min(read_count(k), FARTHEST), read_offset(offset)


def read_count(k: object) -> int:
    """How many hits are wanted. Raises: InvalidQuery."""
    count = read_whole("k", k)
    if count < 1:
        raise InvalidQuery(f"k is {shown(count)}: it must be at least 1")
    return count


def read_offset(offset: object) -> int:
    """From which number of hit on, at most FARTHEST. Raises: InvalidQuery."""
    first = read_whole("offset", offset)
    if first < 0:
        raise InvalidQuery(f"offset is {shown(first)}: it must be at least 0")
    return min(first, FARTHEST)


def read_sort(sort: object) -> Sort:
    """The order of hits. Raises: InvalidQuery."""
    for known in SORTS:
        if isinstance(sort, str) and sort == known:
            return known
    raise InvalidQuery(f"hits cannot be sorted by {shown(sort)}. Use one of: {', '.join(SORTS)}")


def read_queries(query: Any) -> tuple[list[Any], bool]:
    """The queries that were asked, and whether it is one that is not in a list. Raises: InvalidQuery."""
    if isinstance(query, str | bytes | os.PathLike | Query) or not isinstance(query, Iterable) or is_image(query):
        return [read_query(query)], True
    return [read_query(one) for one in query], False


def read_query(query: Any) -> Any:
    """One query: a text, a path or what was parsed before. Raises: InvalidQuery."""
    if isinstance(query, os.PathLike) and not isinstance(os.fspath(query), str):
        query = os.fspath(query)
    if not isinstance(query, str | os.PathLike | Query):
        also = ". Search with its vector: encode_picture returns it" if is_image(query) else ""
        raise InvalidQuery(f"{not_a_query(query)}{also}")
    return query


def read_words(query: Any) -> str:
    """A query that was sent: a text. Raises: InvalidQuery, also for one that is too long."""
    if not isinstance(query, str):
        raise InvalidQuery(not_a_query(query))
    check_length(query)
    return query


def not_a_query(query: object) -> str:
    """That something is no query, in words."""
    return f"{shown(query)} is not a query: a query is a text or a path"


def read_whole(name: str, value: Any) -> int:
    """A whole number of any type. Raises: InvalidQuery."""
    try:
        return _whole(value)
    except TypeError:
        raise InvalidQuery(f"{name} is {shown(value)}: it must be a whole number") from None


def read_switch(name: str, value: Any) -> bool:
    """A truth value of any type. Raises: InvalidQuery."""
    try:
        if value in (False, True):
            return bool(value)
    except (TypeError, ValueError):  # an array
        pass
    raise InvalidQuery(f"{name} is {shown(value)}: it must be True or False")


def read_row_ids(name: str, values: Any) -> tuple[int, ...]:
    """Row ids of any type. Raises: InvalidQuery for what cannot be one; whether there is such a row is not known."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidQuery(f"{name} is {shown(values)}: it must be a list of row ids")
    row_ids = []
    try:
        for value in values:
            row_id = _whole(value)
            if not 0 <= row_id <= LARGEST_ROW_ID:
                raise InvalidQuery(no_picture(row_id))
            row_ids.append(row_id)
    except TypeError:
        raise InvalidQuery(f"{name} must be a list of row ids, which are whole numbers") from None
    return tuple(row_ids)


def read_known_row_ids(values: Any) -> tuple[int, ...]:
    """The row ids of pictures that are asked for themselves, each as `read_row_id` reads it: the same mistake has the
    same error, alone and in a list. Raises: NoSuchPicture, InvalidArgument."""
    wanted = "a list of row ids"
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidArgument("row_ids", shown(values), wanted)
    try:
        return tuple(map(read_row_id, values))
    except InvalidArgument:
        raise
    except TypeError:  # an array of no dimension
        raise InvalidArgument("row_ids", shown(values), wanted) from None


def read_examples(name: str, values: Any) -> tuple[int, ...]:
    """Row ids to learn from. Raises: InvalidQuery."""
    row_ids = read_row_ids(name, values)
    if len(row_ids) > MOST_EXAMPLES:
        raise InvalidQuery(f"{name} has {len(row_ids):,} row ids; the limit is {MOST_EXAMPLES:,}")
    return row_ids


def read_row_id(value: Any, name: str = "row_id", wanted: str = "a whole number") -> int:
    """A row id of any type. Raises: NoSuchPicture for a number that cannot be one, else InvalidArgument."""
    try:
        row_id = _whole(value)
    except TypeError:
        raise InvalidArgument(name, shown(value), wanted) from None
    if not 0 <= row_id <= LARGEST_ROW_ID:
        raise NoSuchPicture(row_id)
    return row_id


def read_size(size: Any) -> int:
    """The size of a thumbnail. Raises: InvalidQuery."""
    try:
        if _whole(size) in THUMBNAIL_SIZES:
            return int(size)
    except TypeError:
        pass
    raise InvalidQuery(f"size is {shown(size)}. Use one of: {', '.join(map(str, THUMBNAIL_SIZES))}")


def read_vector(vector: Any) -> FloatArray | None:
    """A vector of any length and library, or None. Shape: (D,) float64, finite. Raises: InvalidQuery."""
    if vector is None:
        return None
    import numpy as np

    try:
        given = np.asarray(vector)
    except (TypeError, ValueError):  # rows of different lengths
        given = np.empty((0, 0), object)
    if given.shape == (0,):
        given = given.astype(np.float64)  # an empty list has no type of its own
    if given.ndim != 1 or given.dtype.kind not in "biuf":
        raise InvalidQuery("vector must be one row of numbers, as encode_text and vector(row_id) return it")
    with np.errstate(over="ignore"):
        row: FloatArray = given.astype(np.float64)
    if not np.isfinite(row).all():
        raise InvalidQuery("vector has numbers that are not finite")
    return row


def read_texts(texts: Any) -> list[str]:
    """Texts to encode. Raises: InvalidQuery for what is no text, or longer than a query can be."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InvalidQuery(f"{shown(texts)} is not a list of texts")
    return [read_text(text) for text in texts]


def read_text(text: Any) -> str:
    """A text to encode. Raises: InvalidQuery, as `read_texts`."""
    if not isinstance(text, str):
        raise InvalidQuery(f"{shown(text)} is not a text")
    if len(text) > LENGTH_LIMIT:
        raise InvalidQuery(f"the text has {len(text):,} characters; the limit is {LENGTH_LIMIT:,}")
    return text


def read_diversity(value: Any) -> bool | float:
    """How strongly to vary hits: 0 to 1, or whether to. Raises: InvalidQuery."""
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidQuery(f"diverse is {shown(value)}: it must be between 0 and 1")
    return number


def read_confidence(value: Any) -> float | None:
    """The least confidence of a hit: 0 to 1, or None for the usual one. Raises: InvalidQuery."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidQuery(f"min_confidence is {shown(value)}: it must be between 0 and 1")
    return number


def read_path(name: str, value: Any) -> str:
    """A path, as text; there may be no file that could have it. Raises: InvalidArgument."""
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str):
            return path
    raise InvalidArgument(name, shown(value), "a path")


def read_known_path(value: Any) -> str:
    """The path of a picture of an index. Raises: NoSuchPicture for one that is too long to be, else InvalidArgument."""
    path = read_path("path", value)
    if len(path) > LENGTH_LIMIT:
        raise NoSuchPicture(None, f"{path[:MOST_SHOWN]}...")
    return path


def read_place(name: str, value: Any) -> str:
    """A path of this machine that a file or folder can have. Raises: InvalidArgument."""
    if not (path := read_path(name, value)) or "\0" in path:
        raise InvalidArgument(name, shown(value), "a path")
    return path


def read_pictures(picture: Any) -> tuple[list[AnyPicture], bool]:
    """The pictures that were given, and whether it is one that is not in a list. Raises: InvalidArgument.

    A list is read to its end.
    """
    is_one = is_image(picture) or isinstance(picture, str | bytes | os.PathLike) or not isinstance(picture, Iterable)
    pictures = [picture] if is_one else list(picture)
    for one in pictures:
        if not is_image(one) and not isinstance(one, str | os.PathLike):
            raise InvalidArgument("picture", shown(one), "a path or a PIL image")
    return pictures, is_one


def read_setting(name: str, value: Any, low: int) -> int:
    """A whole number of a setting. Raises: InvalidArgument for what is none, or less than `low`."""
    try:
        number = _whole(value)
    except TypeError:
        number = low - 1
    if number < low:
        raise InvalidArgument(name, shown(value), f"a whole number of at least {low}")
    return number


def read_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """A number of a setting. Raises: InvalidArgument for what is none, or not between `low` and `high`."""
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        between = f"between {low:g} and {high:g}" if high < math.inf else f"of at least {low:g}"
        raise InvalidArgument(name, shown(value), f"a number {between}")
    return number


def read_name(name: str, value: Any) -> str:
    """A name, such as that of a model. Raises: InvalidArgument."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidArgument(name, shown(value), "a name")
    return value


def read_address(name: str, value: Any) -> str:
    """The address of a server. Raises: InvalidArgument for what no request can be sent to."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        host = (parts.hostname or "").encode("idna")  # UnicodeError, which is a ValueError, for what is no name
        is_place = bool(host) and parts.port != 0  # ValueError for one above 65,535, where a socket takes what is left
    except ValueError:
        is_place = False
    if not is_place or parts.scheme not in ("http", "https") or parts.query or parts.fragment or not _is_word(value):
        told = _ANY_SECRET.sub(r"\1", value) if isinstance(value, str) else value
        raise InvalidArgument(name, shown(told), "the address of a server, such as http://127.0.0.1:7860")
    address: str = value.rstrip("/")
    return address


def read_server(name: str, value: Any) -> tuple[str, tuple[str, str] | None]:
    """The address of a server without the user and password that may stand in it, and these. Raises: InvalidArgument,
    which does not tell them."""
    from urllib.parse import unquote, urlsplit

    address = read_address(name, value)
    parts = urlsplit(address)
    secret = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    return _SECRET.sub(r"\1", address), secret


_SECRET = re.compile(r"^([^/]*//)[^/?#]*@")
_ANY_SECRET = re.compile(r"^((?:[^/]*//)?).*@", re.DOTALL)  # also in what is no address


def read_token(name: str, value: Any) -> str:
    """A secret that is sent in a header. Raises: InvalidArgument, which does not tell it."""
    if not isinstance(value, str):
        raise InvalidArgument(name, f"of the type {type(value).__name__}", "a text")
    if value != value.strip() or _CONTROL.search(value):
        raise InvalidArgument(name, "a text with control characters or with spaces around it", "that of the server")
    try:
        to_bytes(value)
    except UnicodeEncodeError:
        raise InvalidArgument(name, "a text with halves of characters", "that of the server") from None
    return value


_CONTROL = re.compile(r"[\0-\x1f\x7f]")


def _is_word(text: str) -> bool:
    return not _CONTROL.search(text) and len(text.split()) == 1 and text == text.strip()


def is_image(value: object) -> bool:
    """Whether something is an image of Pillow's, which is not loaded to know it."""
    return any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__)


def shown(value: object) -> str:
    """What was given, in a message: plain values as Python writes them, anything else by its type."""
    if value is None or isinstance(value, str | bytes | int | float | os.PathLike):
        try:
            text = repr(value)
        except ValueError:  # more digits than Python writes
            return "a very large number"
        return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
    kind = "image" if is_image(value) else type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


MOST_SHOWN = 80


def _whole(value: Any) -> int:
    """Raises: TypeError. A truth value is no number: `k=True` is a mistake."""
    if isinstance(value, bool):
        raise TypeError
    return int(operator.index(value))


_MAY_BE_NONE = ("vector", "row_id", "path", "min_confidence")
_READERS: dict[str, Callable[[Any], Any]] = {
    "k": read_count,
    "offset": read_offset,
    "sort": read_sort,
    "unique": partial(read_switch, "unique"),
    "each": partial(read_switch, "each"),
    "diverse": read_diversity,
    "like": partial(read_examples, "like"),
    "unlike": partial(read_examples, "unlike"),
    "vector": read_vector,
    "all": partial(read_switch, "all"),
    "min_confidence": read_confidence,
    "query": read_words,
    "path": read_known_path,
    "texts": read_texts,
    "row_ids": read_known_row_ids,
    "row_id": read_row_id,
    "size": read_size,
}
