"""Every error that clipsearch raises on purpose.

    ClipsearchError
    ├── IndexNotFound         no index where one was looked for
    │   ├── IndexAway         one that was there before is not there now
    │   └── UnknownIndex      the server has none of that name
    ├── IndexLocked           another process is writing to the index
    ├── CorruptIndex          a file of the index is damaged or missing
    ├── NotAnIndex            a folder that holds other things than an index
    ├── UnsupportedIndex      the index was written by a newer clipsearch
    ├── EncoderMismatch       vectors of another model than the one asked for
    │   └── MixedModels       indexes of different models that were to be searched together
    ├── ViewsMismatch         vectors of other views of each picture than those asked for
    ├── RegionsMismatch       regions of pictures are kept, and were not asked for, or the other way round
    ├── DimensionMismatch     vectors of another length than the index's
    ├── NoPictures            nothing to index
    ├── OtherCollection       the index belongs to another folder than the one named
    ├── OutOfSpace            the disk filled up
    ├── OutOfDeviceMemory     the memory of a GPU does not hold the model and a picture
    ├── PartLost              one of several indexes can no longer be read; the others can
    ├── StorageError          the index cannot be read or written for another reason
    ├── ModelNotFound         no model of that name
    │   └── HubUnreachable    it may exist, but the hub cannot be asked
    ├── InvalidModel          a model directory that cannot be used
    │   ├── InvalidCheckpoint a file without the weights that it was named for
    │   └── NotDense          an image tower that tells nothing of places in a picture
    ├── UnsupportedPrecision  arithmetic that a model does not have (also a ValueError)
    ├── ExportFailed          an export that does not give the original's vectors
    ├── NotPushed             a model that a hub did not take, or that is not to be sent
    ├── InvalidTarget         a file or database that an index cannot be exported to
    ├── InvalidPairs          pictures with captions that cannot be used
    ├── InvalidLabels         classes that cannot be told apart, or no classes
    ├── InvalidProbe          a probe that cannot be used
    ├── ClusterError          a cluster that cannot be reached, or cannot do its work
    ├── MissingExtra          an optional dependency is not installed
    ├── MissingFeature        this Python, or the system, lacks what is needed
    ├── ClosedCollection      a collection that was closed before it was asked
    ├── InvalidArgument       what a function cannot be called with (also a TypeError)
    ├── UnreadablePicture     one picture that cannot be read
    ├── NoSuchPicture         the index has no picture of that row id (also a KeyError)
    ├── OtherPicture          the row id, or the file, is that of another picture than the one meant
    ├── OtherIndex            row ids of an index that was made anew since they were told
    ├── ServerError           a server that cannot be reached, or does not answer as one
    │   └── AccessDenied      one that wants another token
    └── InvalidQuery          a query that cannot be understood
        ├── EmptyQuery        one without a word
        ├── OneIndexOnly      what is done in one index, asked of several that are searched together
        ├── PictureOfOne      the row id of one index, sent to several (also a NoSuchPicture)
        ├── MalformedQuery    one that breaks the rules of the query language, and where
        ├── UnknownTag        one with a tag or concept that the index does not have
        ├── UnknownSearch     a saved search that the index does not have
        └── InvalidTag        a tag or concept that cannot be made as asked (also a ValueError)
            ├── TagExists     the index has one of that name, which would be lost
            └── SearchExists  the index has a saved search of that name

What only some commands raise is beside them: `clipsearch.training`, `clipsearch.server`, `clipsearch.cli`.
Each carries its facts as fields; the message says what, where, and how to repair it.
Only the command line prints or exits.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsearch.sentences import Sentence, sentence


class ClipsearchError(Exception):
    """Base class: catch this to catch everything that clipsearch raises on purpose."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError would put its message in quotes

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled as it is: another process cannot make it again of its message alone."""
        return _as_it_was, (type(self), self.args, dict(vars(self)))

    def fields(self) -> dict[str, Any]:
        """What the error carries beside its message, as far as JSON can: see `rebuilt`."""
        return {name: value for name, value in vars(self).items() if _is_plain(value)}

    def sentences(self) -> tuple[object, ...]:
        """What its message is made of, where that can be said in other languages."""
        return tuple(part for part in self.args if isinstance(part, Sentence))


def _as_it_was(kind: type[ClipsearchError], args: tuple[object, ...], fields: dict[str, Any]) -> ClipsearchError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(fields)
    return error


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (str, int, float))


def rebuilt(kind: str, message: str, fields: Mapping[str, Any]) -> ClipsearchError | None:
    """The error of this module that is called `kind`, as it was raised in another process; None if there is none."""
    found = globals().get(kind)
    if not (isinstance(found, type) and issubclass(found, ClipsearchError)):
        return None
    told = {name: value for name, value in fields.items() if name.isidentifier() and not hasattr(ClipsearchError, name)}
    return _as_it_was(found, (message,), told)


class IndexWarning(UserWarning):
    """Something about an index that its owner should know, while work goes on."""


class IndexNotFound(ClipsearchError):
    """There is no index at any of `searched`."""

    def __init__(self, searched: Sequence[Path | str]) -> None:
        self.searched = [str(place) for place in searched]
        super().__init__(
            f"no index found (looked in {', '.join(self.searched)}). "
            "Create one with: clipsearch index FOLDER, or name one with: --index DIR"
        )


class IndexAway(IndexNotFound):
    """`index` was an index before and is none now: its drive may be away. `others` were used before, too.

    `remake`: how to say that it was deleted and is to be made anew; "" where the command makes none.
    """

    def __init__(self, index: Path, others: Sequence[Path] = (), *, remake: str = "") -> None:
        self.index = index
        self.others = [str(other) for other in others]
        self.searched = [str(index)]
        said = f"the index {index} was used before and is missing now: its drive may be away. Nothing was done. "
        if remake:
            said += f"Connect it and run the same command again. If it was deleted, make a new one with: {remake}"
        else:
            known = f" (there are: {', '.join(self.others)})" if self.others else ""
            said += f"Connect it, or say which index to use with: --index DIR{known}"
        ClipsearchError.__init__(self, said)


class IndexLocked(ClipsearchError):
    """Another process holds the writer's lock of `index`; `holder` says which."""

    def __init__(self, index: Path, holder: str) -> None:
        self.index = index
        self.holder = holder
        super().__init__(
            f"{index} is being written to by {holder}. Queries still work. Wait for it to finish, or stop it."
        )


class CorruptIndex(ClipsearchError):
    """`file` of the index is damaged: `problem` says how."""

    def __init__(self, file: Path, problem: str, *, index: Path | None = None, unreadable: bool = False) -> None:
        self.file = file
        self.problem = problem
        self.unreadable = unreadable  # by the drive's word, which says nothing of what is in the file
        where = f" --index {index}" if index is not None else ""
        super().__init__(f"corrupt index: {file}: {problem}. Repair it with: clipsearch verify --repair{where}")


class NotAnIndex(ClipsearchError):
    """`folder` cannot be an index: `problem` says why. Nothing in it was touched."""

    def __init__(self, folder: Path, problem: str) -> None:
        self.folder = folder
        self.problem = problem
        super().__init__(
            f"{folder} cannot be the index: {problem}. Nothing was changed. "
            "Leave out --index, or name an empty or new folder that is only for the index."
        )


class UnsupportedIndex(ClipsearchError):
    """The index at `index` needs `needs`, which this version does not know."""

    def __init__(self, index: Path, needs: str) -> None:
        self.index = index
        self.needs = needs
        super().__init__(
            f"{index} needs {needs}, which this version of clipsearch does not know. "
            "Update with: pip install --upgrade clipsearch"
        )


class EncoderMismatch(ClipsearchError):
    """The index holds vectors of `index_model`; `model` makes vectors that cannot be compared with them."""

    def __init__(self, index: Path, index_model: str, model: str, source: str) -> None:
        self.index = index
        self.index_model = index_model
        self.model = model
        super().__init__(
            f"the index {index} was built with the model {index_model}, and vectors of {model} are not "
            f"comparable with it. Leave out --model to use the model of the index, or encode everything again with: "
            f"clipsearch index {source} --model {model} --reindex"
        )


class MixedModels(EncoderMismatch):
    """The index at `index` cannot be searched together with others: it holds vectors of another model, or of other
    views of each picture, than `other`. `remake` is the command that makes them comparable."""

    def __init__(self, index: Path, index_model: str, model: str, other: Path, remake: str) -> None:
        self.index = index
        self.index_model = index_model
        self.model = model
        self.other = other
        self.remake = remake
        ClipsearchError.__init__(
            self,
            f"the index {index} was built with {index_model}, and {other} with {model}: their scores cannot be "
            f"compared. Search them one by one, or encode the pictures of one again with: {remake}",
        )


class PartLost(ClipsearchError):
    """The index that is called `name` could be opened, but cannot be read now: `problem` says why. Others can."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(f"{name} cannot be read: {problem}. Try again to search the other indexes")


class ViewsMismatch(ClipsearchError):
    """The index holds vectors of pictures in `found` views, not in as many as were `wanted`."""

    def __init__(self, index: Path, found: int, wanted: int, source: str) -> None:
        self.index = index
        self.found = found
        self.wanted = wanted
        self.source = source
        seen = "1 view" if found == 1 else f"{found} views"
        super().__init__(
            f"the index {index} was built with {seen} of each picture. Leave out --views to keep that, or encode "
            f"everything again with: clipsearch index {source} --views {wanted} --reindex"
        )


class RegionsMismatch(ClipsearchError):
    """The index keeps vectors of the regions of pictures, or not, and the other was `wanted`."""

    def __init__(self, index: Path, wanted: bool, source: str) -> None:
        self.index = index
        self.wanted = wanted
        self.source = source
        found, option = ("without", "--regions") if wanted else ("with", "--no-regions")
        super().__init__(
            f"the index {index} was built {found} regions of pictures. Leave out {option} to keep that, or encode "
            f"everything again with: clipsearch index {source} {option} --reindex"
        )


class DimensionMismatch(ClipsearchError):
    """Vectors of `found` numbers where `expected` were needed."""

    def __init__(self, expected: int, found: int) -> None:
        self.expected = expected
        self.found = found
        super().__init__(f"vectors have {found} dimensions, but the index has {expected}: they come from another model")


class NoPictures(ClipsearchError):
    """`folder` holds no picture (`files` other files were seen; `left_out`: how many were not looked at, and why).

    `archives`: how many of the other files may have pictures in them.
    """

    def __init__(self, folder: Path, files: int, left_out: Mapping[str, int] | None = None, archives: int = 0) -> None:
        self.folder = folder
        self.files = files
        self.left_out = dict(left_out or {})
        seen = f"{files} other files" if files else "the folder has no files"
        if self.left_out:
            seen += "; left out: " + ", ".join(f"{reason} ({number:,})" for reason, number in self.left_out.items())
        advice = "Name a folder with JPEG, PNG, WebP, TIFF, HEIC or other picture files."
        if archives:
            advice = f"To index the pictures in its {archives:,} tars and tables: --archives"
        super().__init__(f"no pictures in {folder} ({seen}). {advice}")


class OtherCollection(ClipsearchError):
    """The index at `index` is of the folder `root`, not of `folder`."""

    def __init__(self, index: Path, root: Path, folder: Path) -> None:
        self.index = index
        self.root = root
        self.folder = folder
        super().__init__(
            f"{index} is the index of {root}, not of {folder}. Give each folder an index of its own: "
            f"leave out --index, or name another one. To search several folders together, index their parent folder."
        )


class OutOfSpace(ClipsearchError):
    """The disk of `path` is full. What was committed before stays searchable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"no space left on the disk of {path}. Everything committed so far is safe and searchable: "
            "free some space, or put the index elsewhere with --index DIR, then run the same command again"
        )


class OutOfDeviceMemory(ClipsearchError):
    """The memory of a GPU does not hold the model and one picture."""

    def __init__(self, device: str, model: str) -> None:
        self.device = device
        self.model = model
        super().__init__(
            f"the memory of {device} is too small for {model}, or other programs use it. End those (nvidia-smi lists "
            "them), or choose a smaller model, another device (--device cuda:1) or the processor (--device cpu)"
        )


class StorageError(ClipsearchError):
    """`path` cannot be read or written: `problem` is the system's word on it."""

    def __init__(self, path: Path, problem: str, advice: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}. {advice}")


class ModelNotFound(ClipsearchError):
    """`name` names no model that is here or can be fetched."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(f"unknown model {name!r}: {problem}. List the models with: clipsearch models list")


class HubUnreachable(ModelNotFound):
    """The hub could not be asked for `name`: offline by setting, no connection, or it is down."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        ClipsearchError.__init__(
            self,
            f"the model {name} is not available: {problem}. Try again with a connection "
            f"(clipsearch models pull {name}), or use one that is available: clipsearch models list",
        )


class UnsupportedPrecision(ClipsearchError, ValueError):
    """`model` cannot compute in `precision`; `known` are those that it has."""

    def __init__(self, model: str, precision: str, known: Sequence[str]) -> None:
        self.model = model
        self.precision = precision
        self.known = list(known)
        super().__init__(f"{model} does not support the precision {precision}. Use one of: {', '.join(self.known)}")


class ExportFailed(ClipsearchError):
    """The export of `model` does not give the vectors of PyTorch, or could not be made; nothing was written."""

    def __init__(self, model: str, problem: str) -> None:
        self.model = model
        self.problem = problem
        super().__init__(f"{model} cannot be exported: {problem}. Nothing was written")


class NotPushed(ClipsearchError):
    """The run `model` was not published as `repository`: `problem` says why, `advice` what helps."""

    def __init__(self, model: str, repository: str, problem: str, advice: str) -> None:
        self.model = model
        self.repository = repository
        self.problem = problem
        self.advice = advice
        super().__init__(f"{model} was not pushed to {repository}: {problem}. {advice}")


class InvalidTarget(ClipsearchError):
    """An index cannot be exported to `target`, a file or database, in which no password is: `problem` says why."""

    def __init__(self, target: str, problem: str) -> None:
        self.target = target
        self.problem = problem
        super().__init__(f"cannot export to {target}: {problem}")


class InvalidModel(ClipsearchError):
    """The model directory `path` cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"{path} is not a usable model directory: {problem}. It needs config.json, visual/model.onnx, "
            "visual/preprocess_cfg.json, textual/model.onnx and textual/tokenizer.json; "
            "create one with: clipsearch models export MODEL DIR"
        )


class InvalidCheckpoint(InvalidModel):
    """The file `path` does not hold the weights that it was named for."""

    def __init__(self, path: Path, problem: str, advice: str) -> None:
        self.path = path
        self.problem = problem
        ClipsearchError.__init__(self, f"the checkpoint {path} cannot be used: {problem}. {advice}")


class NotDense(InvalidModel):
    """An image tower that cannot be cut before its pooling, and so says nothing of places in a picture."""


class ClusterError(ClipsearchError):
    """A cluster that cannot be reached, or whose machines cannot do the work."""


class MissingExtra(ClipsearchError):
    """`purpose` needs the optional dependencies of `extra`."""

    def __init__(self, extra: str, purpose: str) -> None:
        self.extra = extra
        self.purpose = purpose
        super().__init__(f"{purpose} needs an optional package. Install it with: pip install 'clipsearch[{extra}]'")


class MissingFeature(ClipsearchError):
    """This Python, or the system, lacks what is needed; `advice` says what has it."""

    def __init__(self, problem: str, advice: str) -> None:
        self.problem = problem
        self.advice = advice
        super().__init__(f"{problem}. {advice}")


class InvalidPairs(ClipsearchError):
    """Pairs of pictures and captions at `source` that cannot be used."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(
            f"{source}: {problem}. Give pairs as a CSV, TSV, JSONL or Parquet file with an image and a caption "
            "column, a folder with a .txt file beside each picture, or WebDataset tars"
        )


class InvalidLabels(ClipsearchError):
    """Labels or templates that cannot be classified with."""


class InvalidProbe(ClipsearchError):
    """The probe in `folder` cannot be used."""

    def __init__(self, folder: Path, problem: str) -> None:
        self.folder = folder
        self.problem = problem
        super().__init__(f"{folder}: {problem}. Create one with: clipsearch train probe FOLDER_PER_CLASS --out DIR")


NO_SUCH_PICTURE = "there is no such picture"
GONE = "its file is missing: it was deleted or moved, or its drive is away"


class UnreadablePicture(ClipsearchError):
    """The picture at `path` cannot be read; `status` is its class (see records.SkipStatus)."""

    def __init__(self, path: Path | str, status: str, reason: str) -> None:
        self.path = path
        self.status = status
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class ClosedCollection(ClipsearchError):
    """A collection was asked after it was closed."""

    def __init__(self) -> None:
        super().__init__("the collection is closed. Open it again with clipsearch.open or clipsearch.connect")


class InvalidArgument(ClipsearchError, TypeError):
    """The argument `name` is `given`, in words, where `wanted` is needed."""

    def __init__(self, name: str, given: str, wanted: str) -> None:
        self.name = name
        self.given = given
        self.wanted = wanted
        super().__init__(f"{name} is {given}: it must be {wanted}")


def no_picture(row_id: int | None, path: str | None = None) -> str:
    """That an index has no picture of a row id or at a path, in words."""
    if path is not None:
        return sentence(
            "no_picture_at",
            "the index has no picture at {path}, and no other file is opened. Use the path or row_id of a hit",
            path=path,
        )
    try:
        return sentence("no_picture", "the index has no picture {number}. Use the row_id of a hit", number=f"{row_id}")
    except ValueError:  # more digits than Python writes
        return sentence(
            "no_picture_so_large", "the index has no picture with such a large number. Use the row_id of a hit"
        )


class NoSuchPicture(ClipsearchError, KeyError):
    """The index has no picture with this `row_id`, or at this `path`."""

    def __init__(self, row_id: int | None, path: str | None = None) -> None:
        self.row_id = row_id
        self.path = path
        super().__init__(no_picture(row_id, path))


class OtherPicture(ClipsearchError):
    """The picture of this `row_id` has another content than the one that is meant, or its file has."""

    def __init__(self, row_id: int, problem: str = "this row has a different picture now") -> None:
        self.row_id = row_id
        super().__init__(f"picture {row_id}: {problem}")


class OtherIndex(ClipsearchError):
    """Row ids of another index than `name` is now, or of this one before it was made anew, were sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} is a different index now: its pictures have other numbers. Search again")


class UnknownIndex(IndexNotFound):
    """The server has no index called `name`; `known` are those it has."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = list(known)
        self.searched = self.known
        ClipsearchError.__init__(self, f"the server has no index {name!r}. It has: {', '.join(self.known)}")


class ServerError(ClipsearchError):
    """The server at `url` cannot be reached, or answered with `status` for a reason of its own."""

    def __init__(self, url: str, problem: str, status: int | None = None) -> None:
        self.url = url
        self.problem = problem
        self.status = status
        super().__init__(f"{url}: {problem}")


class AccessDenied(ServerError):
    """The server wants another token."""


class InvalidQuery(ClipsearchError):
    """A query that cannot be answered as it stands."""


class PictureOfOne(InvalidQuery, NoSuchPicture):
    """A `row_id` by which no picture is known where several indexes are searched together."""

    def __init__(self, row_id: int) -> None:
        self.row_id = row_id
        self.path = None
        Exception.__init__(
            self,
            sentence(
                "picture_of_one",
                "{number} is not a picture of the indexes that are searched together. Use the row_id of a hit of this "
                "search or a path, or search only the index that this row_id belongs to",
                number=row_id,
            ),
        )


class OneIndexOnly(InvalidQuery):
    """Something that is done in one index was asked of several, which are called `known`."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)
        super().__init__(
            f"this works in one index, and several are searched together. Name one of them: {', '.join(self.known)}"
        )


class EmptyQuery(InvalidQuery):
    """A query without a word in it."""

    def __init__(self) -> None:
        super().__init__(
            sentence("empty", 'the query is empty. Say what to search for: clipsearch query "a dog on a beach"')
        )


class MalformedQuery(InvalidQuery):
    """`query` cannot be understood from `position` on (characters from 0): `problem` says why, `advice` what to do."""

    def __init__(self, query: str, position: int, problem: str, advice: str) -> None:
        self.query = query
        self.position = position
        self.problem = problem
        self.advice = advice
        super().__init__(f"{problem}\n{_point_at(query, position)}\n{advice}")

    def sentences(self) -> tuple[object, ...]:
        return (self.problem, self.advice)


class UnknownTag(InvalidQuery):
    """No tag or concept of the index is called `name`; `known` are those there are."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = list(known)
        there = f"It has: {', '.join(self.known[:20])}" if known else "It has no tags yet"
        super().__init__(
            f"the index has no tag {name!r}. {there}. "
            "Create one from pictures with: clipsearch concept add NAME PICTURE..."
        )


class InvalidTag(InvalidQuery, ValueError):
    """A tag or concept that cannot be made as asked: `problem` says why."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


class TagExists(InvalidTag):
    """The index has a tag or concept (`kind`) of that name, with so many `pictures`; nothing was changed."""

    def __init__(self, name: str, kind: str, pictures: int) -> None:
        self.name = name
        self.kind = kind
        self.pictures = pictures
        what = "example" if kind == "concept" else "picture"
        super().__init__(
            f"the index already has the {kind} {name!r} ({pictures:,} {what}{'' if pictures == 1 else 's'}). "
            "Nothing was changed. Use another name, or replace it with: --replace (in Python and over HTTP, replace)"
        )


class SearchExists(InvalidTag):
    """The index has a saved search of that name; nothing was changed."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"there is a saved search {name!r} already. Nothing was changed. Use another name, or replace it with: "
            "clipsearch saved add --replace (over HTTP, replace)"
        )


class UnknownSearch(InvalidQuery):
    """The index has no saved search of that name. `unread`: why other indexes, which may have one, cannot be asked."""

    def __init__(self, name: str, known: Sequence[str], unread: Sequence[str] = ()) -> None:
        self.name = name
        self.known = list(known)
        there = f"There are: {', '.join(self.known[:20])}" if known else "There are none yet"
        super().__init__(". ".join([f"there is no saved search {name!r}", there, *unread]))


_SHOWN_AROUND = 60


def _point_at(text: str, position: int) -> str:
    """The part of `text` around `position`, and below it a caret."""
    from unicodedata import combining, east_asian_width

    start, end = max(0, position - _SHOWN_AROUND), position + _SHOWN_AROUND
    before = "".join(c if c.isprintable() else " " for c in text[start:position])
    after = "".join(c if c.isprintable() else " " for c in text[position:end])
    before, after = ("..." if start else "") + before, after + ("..." if end < len(text) else "")
    columns = sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in before)
    return f"  {before}{after}\n  {' ' * columns}^"


def first_line(error: BaseException) -> str:
    """What an error of another library says, without its pages of advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: `ulimit -f`
_DISK_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")


def is_out_of_space(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that the disk is full; also where a library has put it into words."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OutOfSpace) or (isinstance(seen, OSError) and seen.errno in _DISK_FULL):
            return True
        text = "" if isinstance(seen, ClipsearchError) else str(seen)
        if any(words in text for words in _DISK_FULL_WORDS):
            return True
        if "File too large" in text and type(seen).__name__ in ("SafetensorError", "Error"):  # the latter: shutil.Error
            return True
        seen = seen.__cause__ or seen.__context__
    return False


UNREADABLE = (CorruptIndex, IndexNotFound, StorageError, UnsupportedIndex, OSError)
"""What says that an index cannot be read, whatever is asked of it."""
