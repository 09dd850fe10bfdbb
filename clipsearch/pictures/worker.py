"""One decoder process: tasks come in on stdin, results go out on stdout, pixels into shared memory.

Started by `decoding.DecodePool` with its settings as one JSON argument. It ends when its stdin does, so it
cannot outlive its parent. Messages are JSON behind a length of four bytes: a decoder that was taken over by a
malicious picture can lie about that picture, but cannot run anything in the parent.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.pictures.images import PictureFile
    from clipsearch.records import PixelArray, Preprocessing

_MAX_MESSAGE_BYTES = 2**22


def send(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message. Lone surrogates (file names that are not UTF-8) survive as JSON escapes."""
    body = json.dumps(message).encode("ascii")
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; None at the end of the stream, and for anything that is not a message."""
    head = stream.read(4)
    length = int.from_bytes(head, "big")
    if len(head) < 4 or length > _MAX_MESSAGE_BYTES:
        return None
    body = stream.read(length)
    try:
        message = json.loads(body)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def share_memory(size_bytes: int) -> tuple[mmap.mmap, int]:
    """Make memory without a name in any file system, which goes away with the last process that maps it.

    Returns: the memory, and the descriptor with which `attach_memory` finds it in a child process that inherits it.
    """
    descriptor = nameless_file("clipsearch-pixels")
    os.ftruncate(descriptor, size_bytes)
    return mmap.mmap(descriptor, size_bytes), descriptor


def nameless_file(name: str) -> int:
    """A descriptor of a file that is in no folder: in memory where the system has that, else a temporary one.

    Memory of this kind is not limited by /dev/shm, and needs no folder that can be written to. Raises: OSError.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # old kernels, and sandboxes that do not allow it
            return os.memfd_create(name)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def attach_memory(handle: int, size_bytes: int) -> mmap.mmap:
    """Map the memory that the parent made with `share_memory`."""
    return mmap.mmap(handle, size_bytes)


def _read_member(task: dict[str, Any]) -> bytes:
    """The bytes of a picture that is part of a larger file. Raises: UnreadablePicture."""
    from clipsearch.errors import UnreadablePicture

    try:
        with open(task["path"], "rb") as file:
            file.seek(task["offset"])
            content = file.read(task["size_bytes"])
    except OSError as error:
        raise UnreadablePicture(task["path"], "unreadable", (error.strerror or str(error)).lower()) from error
    if len(content) < task["size_bytes"]:
        raise UnreadablePicture(task["path"], "truncated", "the file ends before the picture does")
    return content


def _reader_of_words() -> Any:
    from clipsearch.pictures.words import Reader

    return Reader()


def _words_of_page(file: PictureFile, task: dict[str, Any], reader: Callable[[], Any]) -> dict[str, Any]:
    """What stands on a page of a document: its text layer, or else what `reader` reads, unless only the former is
    wanted; and what is filled into its forms. Raises: UnreadablePicture."""
    from clipsearch.pictures.pdf import LEAST_LETTERS, letters_in
    from clipsearch.pictures.words import bounded, scaled

    number = int(task["start_s"])
    lines, filled, (width, height) = file.read_text(number)
    is_thin = letters_in(lines) < LEAST_LETTERS
    if is_thin and not task.get("text_only"):
        image = file.open(longest=task["longest"], time_s=number)
        across, down = width / image.width, height / image.height
        read = [scaled(line, across, down) for line in reader().read(image)]
        lines = max(lines, read, key=letters_in)
    if not (is_thin and task.get("text_only")):  # else the page counts as read, and waits for no reader
        lines = bounded([*lines, *filled])
    return {"width": width, "height": height, "lines": [line.to_dict() for line in lines]}


def _read_part(file: PictureFile, preprocessing: Preprocessing, slot: PixelArray, start_s: float) -> dict[str, Any]:
    """Read a part of a video into `slot`, shape (F, H, W, 3). Returns what is told of it. Raises: UnreadablePicture."""
    part, pixels, looks = file.read_part(preprocessing, start_s=start_s, most=len(slot), look=True)
    slot[: len(pixels)] = pixels
    told: dict[str, Any] = {"width": part.full_size[0], "height": part.full_size[1], "pieces": len(pixels)}
    told["video"] = {
        "times_s": [frame.time_s for frame in part.frames],
        "looks": [asdict(look) for look in looks],
        "next_s": part.next_s,
        "duration_s": part.duration_s,
    }
    told["partial"] = part.partial
    if start_s < 0:
        metadata, told["beside_unread"] = file.metadata()
        told["metadata"] = asdict(metadata)
    return told


def _read_pages(file: PictureFile, preprocessing: Preprocessing, slot: PixelArray, after: int) -> dict[str, Any]:
    """Read pages of a document after one into `slot`, shape (F, H, W, 3); of one that nobody has seen yet (-1), the
    first. Or angles of a 3-D model, all at once. Returns what is told of them. Raises: UnreadablePicture."""
    is_first = after < 0
    most = 1 if is_first and file.kind == "PDF" else len(slot)
    read, pixels, looks = file.read_pages(preprocessing, after=max(0, after), most=most)
    slot[: len(pixels)] = pixels
    width, height = read.pages[0].size if read.pages else (0, 0)
    told: dict[str, Any] = {"width": width, "height": height, "pieces": len(pixels), "partial": read.partial}
    told["video"] = {
        "times_s": [page.number for page in read.pages],
        "looks": [asdict(look) for look in looks],
        "next_s": read.next_page,
        "duration_s": read.count,
        "sizes": [page.size for page in read.pages],
    }
    if is_first:
        metadata, told["beside_unread"] = file.metadata()
        told["metadata"] = asdict(metadata)
    return told


def _read_frames(file: PictureFile, preprocessing: Preprocessing, slot: PixelArray) -> dict[str, Any]:
    """Read frames of an animated picture into `slot`, shape (F, H, W, 3). Returns what is told of them. Raises:
    UnreadablePicture."""
    times_s, duration_s, pixels, looks = file.read_frames(preprocessing, most=len(slot))
    slot[: len(pixels)] = pixels
    video = {"times_s": times_s, "looks": [asdict(look) for look in looks], "next_s": None, "duration_s": duration_s}
    return {"pieces": len(pixels), "tiled": False, "video": video}


def _limit_memory(limit_bytes: int) -> None:
    """Make allocations beyond `limit_bytes` fail in this process, where the system can (Linux)."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def main(reader_of_words: Callable[[], Any] | None = None) -> None:
    """Answer tasks until stdin ends. `reader_of_words`: what to read words with, for tests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    tasks = os.fdopen(os.dup(0), "rb")
    results = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # C libraries print there; results must not be mixed with that

    import numpy as np
    from PIL import ImageFile

    from clipsearch.errors import UnreadablePicture
    from clipsearch.pictures import images
    from clipsearch.pictures.formats import IN_PARTS
    from clipsearch.query.crops import read_crop
    from clipsearch.records import Preprocessing

    settings = json.loads(sys.argv[1])
    preprocessing = Preprocessing(**settings["preprocessing"])
    max_pixels = settings["max_pixels"] or images.MAX_PIXELS
    piece_shape = (preprocessing.height, preprocessing.width, 3)
    memory = attach_memory(settings["memory"], settings["memory_bytes"])
    slots = np.frombuffer(memory, np.uint8).reshape(-1, settings["most_pieces"], *piece_shape)
    _limit_memory(settings["limit_bytes"])
    warnings.simplefilter("ignore")
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    os.dup2(null, 2)  # from here on only libtiff and the like write there
    words_reader = lru_cache(maxsize=1)(reader_of_words or _reader_of_words)
    send(results, {"ready": True})

    while (task := receive(tasks)) is not None:
        signal.alarm(task["alarm_s"])  # ends the process
        result: dict[str, Any] = {}
        try:
            member = _read_member(task) if "member" in task else None
            with images.PictureFile(task.get("member", task["path"]), member) as file:
                if member is not None and file.kind in IN_PARTS:
                    what = images.A_PART_OF[file.kind]
                    raise UnreadablePicture(
                        file.path, "not_a_picture", f"{what} in an archive, where clipsearch does not read it"
                    )
                pieces = settings["pieces"]
                in_parts = pieces and not task.get("alone")
                if task["mode"] == "describe":
                    send(results, {"read": True})
                    about = file.describe(preprocessing, max_pixels=max_pixels, pieces=pieces)
                    result["metadata"] = asdict(about)
                elif task["mode"] == "subtitles":  # all of its time is for reading: no picture is decoded
                    if (cues := file.subtitles()) is not None:
                        result |= {"cues": [[cue.start_s, cue.text] for cue in cues], "hash": file.content_hash()}
                elif "start_s" not in task:
                    result["hash"] = file.content_hash()
                if task["mode"] == "words" and "start_s" in task:
                    send(results, {"read": True})
                    result |= _words_of_page(file, task, words_reader)
                elif task["mode"] == "words":
                    send(results, {"read": True})
                    image = file.open(longest=task["longest"], max_pixels=max_pixels)
                    has_words = not task["gated"] or words_reader().has_words(image)
                    lines = [line.to_dict() for line in words_reader().read(image)] if has_words else None
                    result |= {"width": image.width, "height": image.height, "lines": lines}
                if task["mode"] == "look":
                    send(results, {"read": True})
                    start_s = task.get("start_s", 0.0)
                    image, size = file.open_sized(longest=task["longest"], max_pixels=max_pixels, time_s=start_s)
                    pixels = np.asarray(image.convert("RGB"))
                    slots[task["slot"]].reshape(-1)[: pixels.size] = pixels.reshape(-1)
                    result |= {"width": size[0], "height": size[1], "rows": image.height, "columns": image.width}
                if task["mode"] == "decode" and "start_s" in task and file.kind not in IN_PARTS:
                    send(results, {"read": True})
                    shown = file.frame_at(task["start_s"], preprocessing)
                    slots[task["slot"], :1] = shown.pieces
                    result |= {"width": shown.width, "height": shown.height, "pieces": 1}
                elif task["mode"] == "decode" and file.kind in IN_PARTS and ("start_s" in task or in_parts):
                    send(results, {"read": True})
                    start_s = task.get("start_s", -1.0)
                    slot = slots[task["slot"]][: task.get("most")]
                    if not in_parts:
                        shown = file.frame_at(start_s, preprocessing)
                        slots[task["slot"], :1] = shown.pieces
                        result |= {"width": shown.width, "height": shown.height, "pieces": 1}
                    elif file.kind == "VIDEO":
                        result |= _read_part(file, preprocessing, slot, start_s)
                    else:
                        result |= _read_pages(file, preprocessing, slot, int(start_s))
                elif task["mode"] == "decode":
                    send(results, {"read": True})
                    crop = read_crop(task["crop"]) if "crop" in task else None
                    picture = file.decode(
                        preprocessing,
                        max_pixels=max_pixels,
                        pieces=pieces,
                        crop=crop,
                        views=settings["views"],
                        look=True,
                    )
                    slots[task["slot"], : len(picture.pieces)] = picture.pieces
                    result |= {
                        "width": picture.width,
                        "height": picture.height,
                        "pieces": len(picture.pieces),
                        "tiled": picture.is_tiled,
                    }
                    result |= {"partial": picture.partial, "beside_unread": picture.beside_unread}
                    result["metadata"] = asdict(picture.metadata)
                    result["appearance"] = asdict(picture.appearance)
                    if task.get("frames") and file.is_animated:
                        with contextlib.suppress(UnreadablePicture):  # it is a picture, then
                            result |= _read_frames(file, preprocessing, slots[task["slot"]])
        except UnreadablePicture as error:
            result["skip"] = (error.status, error.reason)
        send(results, result)


if __name__ == "__main__":
    main()
