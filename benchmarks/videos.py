"""How well a sentence finds the video that shows it, and the moment: on videos made of captioned photos.

    python -m benchmarks.videos TAR [--videos 40] [--photos 8] [--seconds 2] [--moves] [--keep FOLDER] [--json FILE]

TAR holds pictures beside their captions (`flickr8k-dev-0000.tar`). Each video shows some photos for some seconds
each, one caption of each is a query. Counted are queries whose video is first of all (R@1), and of these how often
the moment that is told is within two seconds of when the photo is shown. `--moves`: the camera moves over each photo,
and every video is encoded at another size, rate and distance of key frames. Also told: R@1 by the first frame of each
video, by the mean of its frames and by its best frame, all by the same frames that the index was made of; and with
shots divided at other cosines.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from clipsearch.encoder.names import load_encoder
from clipsearch.indexer import shots
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.pictures.appearance import NOT_SEEN
from clipsearch.records import FloatArray
from clipsearch.search.collection import Collection

SIZE = (640, 480)
NEAR_S = 2.0


def photos(path: Path, count: int) -> list[tuple[Image.Image, str]]:
    """Pictures with one of their captions each."""
    found = []
    with tarfile.open(path) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))
        for number, name in enumerate(names[:count]):
            picture, text = tar.extractfile(name), tar.extractfile(name.removesuffix(".jpg") + ".json")
            assert picture is not None
            assert text is not None
            captions = json.load(text)["captions"]
            image = Image.open(io.BytesIO(picture.read())).convert("RGB")
            found.append((image, captions[number % len(captions)]))
    return found


def write_video(
    path: Path, pictures: list[Image.Image], seconds: float, *, size: tuple[int, int], fps: int, keys: int, moves: bool
) -> None:
    """A video of pictures, each shown for some seconds."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options={"g": str(keys), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for picture in pictures:
            still = ImageOps.fit(picture, size)
            for number in range(int(seconds * fps)):
                image = still
                if moves:
                    part = 0.8 + 0.2 * number / (seconds * fps)
                    width, height = int(size[0] * part), int(size[1] * part)
                    left = int((size[0] - width) * number / (seconds * fps))
                    image = still.crop((left, 0, left + width, height)).resize(size)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tar", type=Path)
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--moves", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options, options.keep or Path(temporary))
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    pairs = photos(options.tar, options.videos * options.photos)
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    queries = []
    for number in range(options.videos):
        own = pairs[number * options.photos : (number + 1) * options.photos]
        path = folder / f"{number:04d}.mp4"
        size, fps, keys = SIZE, 25, 250
        if options.moves:
            size = [(320, 240), (640, 480), (1280, 720), (480, 854)][number % 4]
            fps, keys = [12, 25, 30, 50][int(rng.integers(4))], [12, 60, 250, 10_000][int(rng.integers(4))]
        if not path.exists():
            pictures = [image for image, _ in own]
            write_video(path, pictures, options.seconds, size=size, fps=fps, keys=keys, moves=options.moves)
        queries += [(caption, number, place * options.seconds) for place, (_, caption) in enumerate(own)]
    encoder = load_encoder(options.model)
    frames: dict[str, tuple[list[float], FloatArray, float | None]] = {}
    divide = shots.Video.shots

    def noting(video: shots.Video) -> list[shots.Shot]:
        part = video.first.video
        frames[video.file.path] = (video.times_s, np.stack(video.vectors), None if part is None else part.duration_s)
        return divide(video)

    shots.Video.shots = noting  # type: ignore[method-assign]
    began = time.monotonic()
    report = index_folder(folder, encoder, index=folder / ".clipsearch", options=IndexOptions(new=True, reindex=True))
    took_s = time.monotonic() - began
    shots.Video.shots = divide  # type: ignore[method-assign]
    result: dict[str, Any] = {
        "videos": options.videos,
        "queries": len(queries),
        "index_seconds": round(took_s, 1),
        "video_seconds": options.videos * options.photos * options.seconds,
        "shots": report.rows,
        "frames": sum(len(times) for times, _, _ in frames.values()),
    }
    first = within = 0
    with Collection(report.index, encoder=encoder) as found:
        vectors = [found.query_vector(found.parse(f'"{caption}"')) for caption, _, _ in queries]
        for (_, number, start_s), vector in zip(queries, vectors, strict=True):
            hit = found.search("", 1, vector=vector, all=True)[0]
            if hit.record.path == f"{number:04d}.mp4":
                first += 1
                told_s = float(hit.where.rpartition("#t=")[2])
                within += start_s - NEAR_S <= told_s <= start_s + options.seconds + NEAR_S
    result["r1"] = round(100 * first / len(queries), 1)
    result["moment_within_2_s"] = round(100 * within / max(1, first), 1)
    asked = np.stack([vector for vector in vectors if vector is not None])
    owners = np.array([number for _, number, _ in queries])
    names = [f"{number:04d}.mp4" for number in range(options.videos)]

    def recall(parts: list[FloatArray]) -> float:
        scores = np.stack([(asked @ part.T).max(axis=1) for part in parts], axis=1)
        return round(100 * float((scores.argmax(axis=1) == owners).mean()), 1)

    result["r1_first_frame"] = recall([frames[name][1][:1] for name in names])
    means = [frames[name][1].mean(axis=0, keepdims=True) for name in names]
    result["r1_mean"] = recall([mean / np.linalg.norm(mean) for mean in means])
    result["r1_best_frame"] = recall([frames[name][1] for name in names])
    kept = shots.SAME_SHOT
    result["r1_shots"] = {}
    for cosine in (0.6, 0.7, 0.75, 0.8, 0.85, 0.9):
        shots.SAME_SHOT = cosine
        parts = []
        for name in names:
            times, own_vectors, duration = frames[name]
            divided = shots.divided(times, own_vectors, [NOT_SEEN] * len(times), duration)
            parts.append(np.stack([shot.vector for shot in divided]))
        result["r1_shots"][str(cosine)] = [recall(parts), sum(map(len, parts))]
    shots.SAME_SHOT = kept
    return result


if __name__ == "__main__":
    main()
