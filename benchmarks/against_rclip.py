"""clipsearch against rclip with the same towers: indexing photographs, and cold queries.

One random-weight ViT-B-32-256 is exported and given to both, so the work is the same and only the engineering
differs. rclip needs an environment of its own (it pins numpy): `python -m venv E && E/bin/pip install rclip==3.3.0`,
then --rclip E/bin/rclip. Its database for the query part is filled by its own code with random vectors.
ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI shows what clipsearch does on processors without AMX: onnxruntime's fp32, on which
rclip runs, uses none.
"""

from __future__ import annotations

import argparse
import gzip
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import Times, interleaved, machine, random_blocks, report, seconds_of, write_index
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.pictures.images import open_picture
from clipsearch.store import open_snapshot

ARCHITECTURE = "ViT-B-32-256"
RCLIP_MODEL = "ViT-B-32-256-datacomp_s34b_b86k"
RCLIP_FILES = ("LICENSE", "OPENAI-CLIP-MIT.txt", "README.md", "THIRD_PARTY_NOTICES.md")
QUERY = "a dog on a beach"

FILL = """
import sys, numpy as np
from pathlib import Path
from rclip import db
rows, folder = int(sys.argv[2]), sys.argv[3]
base = db.DB(sys.argv[1])
rng = np.random.default_rng(0)
for start in range(0, rows, 10000):
    block = rng.standard_normal((min(10000, rows - start), 512), np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    for n, vector in enumerate(block, start):
        base.upsert_image(db.NewImage(filepath=f"{folder}/20{n % 24:02d}/IMG_{n:08d}.jpg", modified_at=1.7e9 + n,
                                      size=1000000 + n, vector=vector.tobytes(), hash=f"{n:064x}"), commit=False)
    base.commit()
base.close()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rclip", type=Path, required=True, help="the rclip program, in an environment of its own")
    parser.add_argument("--work", type=Path, default=Path(".cache/bench"), help="where models and pictures are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--photos", type=Path, default=Path("demo/photos"), help="photographs to make the pictures of")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, nargs=2, default=[200, 48], metavar=("SMALL", "LARGE"))
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 1_000_000])
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    model, data = towers(work)
    body: dict[str, Any] = {"machine": machine("onnxruntime", "pillow"), "rclip": rclip_version(arguments.rclip)}
    bars: dict[str, dict[str, float]] = {}
    for name, size, count in zip(
        ("640 px", "12 megapixels"), ((640, 480), (4000, 3000)), arguments.pictures, strict=True
    ):
        if not count:
            continue
        folder = pictures(work, arguments.photos, size, count)
        times, processor = indexing(folder, model, data, arguments.rclip, arguments.rounds)
        rates = {"clipsearch": count / median(times.ours), "rclip": count / median(times.theirs)}
        speedup = 1 / times.ratio()["median"]
        body[f"index {name}"] = {
            "pictures": count,
            "speedup": speedup,
            "precision": noted_precision(folder),
            **times.summary(),
            "processor_time": processor.summary(),
        }
        bars[f"indexing {name}"] = rates
        print(f"indexing {count} pictures of {name}: {speedup:.2f} times rclip's speed, {times.ratio()}, "
              f"of its processor time {processor.ratio()}, in {noted_precision(folder)}")  # fmt: skip
    for rows in arguments.rows:
        times = querying(work, model, data, arguments.rclip, rows, arguments.rounds + 2)
        body[f"query {rows}"] = {"rows": rows, **times.summary()}
        bars[f"cold query, {rows:,} rows"] = {"clipsearch": median(times.ours), "rclip": median(times.theirs)}
        print(f"cold query over {rows:,} rows: {times.ratio()['median']:.3f} of rclip's time, {times.summary()}")
    report(arguments.out, "against_rclip", body, bars, "pictures/s, or seconds")


def rclip_version(program: Path) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def towers(work: Path) -> tuple[Path, Path]:
    """A model directory for clipsearch and a data folder for rclip, with the same weights."""
    model, data = work / "model", work / "rclip-data"
    if not (model / "config.json").exists():
        import open_clip
        import torch

        from clipsearch.encoder.export import export
        from clipsearch.encoder.openclip import OpenClipEncoder

        torch.manual_seed(0)
        weights = work / "weights.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        from safetensors.torch import save_file

        state = open_clip.create_model(ARCHITECTURE).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
        export(OpenClipEncoder(ARCHITECTURE, checkpoint=weights, device="cpu", precision="fp32"), model)
    folder = data / RCLIP_MODEL
    if not (folder / "textual.onnx").exists():
        import onnx
        import open_clip

        folder.mkdir(parents=True, exist_ok=True)
        for part, name in (("visual", "image"), ("textual", "text")):
            graph = onnx.load(model / part / "model.onnx")
            rename_io(graph, name)
            onnx.save(graph, folder / f"{part}.onnx")
        (data / "tokenizer").mkdir(exist_ok=True)
        vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
        with gzip.open(vocabulary):
            shutil.copy(vocabulary, data / "tokenizer")
        for name in RCLIP_FILES:
            (data / name).write_text("placeholder: random weights\n", encoding="utf-8")
            (folder / name).write_text("placeholder: random weights\n", encoding="utf-8")
    return model, data


def rename_io(graph: Any, given: str) -> None:
    """Call a tower's input `input` (int64 for texts, as rclip gives it) and its output `output`."""
    import onnx

    result = graph.graph.output[0].name
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == given:
                    names[at] = "tokens" if given == "text" else "input"
                elif name == result:
                    names[at] = "output"
    graph.graph.input[0].name = "input"
    graph.graph.output[0].name = "output"
    if given == "text":
        graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        cast = onnx.helper.make_node("Cast", ["input"], ["tokens"], to=onnx.TensorProto.INT32)
        graph.graph.node.insert(0, cast)


def pictures(work: Path, photos: Path, size: tuple[int, int], count: int) -> Path:
    """`count` JPEGs of `size`: random crops of real photographs with some noise, so that no two are alike."""
    folder = work / f"pictures-{size[0]}x{size[1]}-{count}"
    if folder.exists():
        return folder
    sources = [open_picture(path) for path in sorted(photos.rglob("*")) if path.suffix in (".jpg", ".jpeg", ".png")]
    if not sources:
        sys.exit(f"no photographs in {photos}: run `make demo` first, or name a folder with --photos")
    rng = np.random.default_rng(size[0])
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        source = sources[number % len(sources)]
        w, h = (int(side * rng.uniform(0.6, 1)) for side in source.size)
        x, y = int(rng.integers(0, source.width - w + 1)), int(rng.integers(0, source.height - h + 1))
        crop = np.asarray(source.resize(size, Image.Resampling.BICUBIC, (x, y, x + w, y + h)), np.int16)
        noisy = (crop + rng.integers(-4, 5, crop.shape, np.int16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(part / f"{number:05d}.jpg", quality=90)
    part.rename(folder)
    return folder


def noted_precision(folder: Path) -> str | None:
    """In what arithmetic clipsearch encoded a folder."""
    with open_snapshot(folder / ".clipsearch") as snapshot:
        return snapshot.manifest.model.precision


def processor_s() -> float:
    """Processor time of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def indexing(folder: Path, model: Path, data: Path, rclip: Path, rounds: int) -> tuple[Times, Times]:
    """Both index the same folder from nothing. Wall times, and processor times."""
    processor = Times([], [])

    def ours() -> float:
        before = processor_s()
        seconds = index()
        processor.ours.append(processor_s() - before)
        return seconds

    def theirs() -> float:
        before = processor_s()
        seconds = index_by_rclip()
        processor.theirs.append(processor_s() - before)
        return seconds

    def index() -> float:
        shutil.rmtree(folder / ".clipsearch", ignore_errors=True)
        return seconds_of([program(), "index", folder, "--model", model, "--quiet"], folder=folder)

    def index_by_rclip() -> float:
        for file in data.glob("db.sqlite3*"):
            file.unlink()
        return seconds_of([rclip, "--filepath-only", QUERY], folder=folder, env={"RCLIP_DATADIR": str(data)})

    return interleaved(ours, theirs, rounds, warm_up=False), processor


def querying(work: Path, model: Path, data: Path, rclip: Path, rows: int, rounds: int) -> Times:
    """Both answer one sentence in a new process, over `rows` vectors, without looking for new files."""
    folder = work / f"rows-{rows}"
    encoder = OnnxEncoder(model, name=str(model))
    if not (folder / ".clipsearch" / "CURRENT").exists():
        write_index(folder, encoder, lambda: random_blocks(rows, encoder.dim))
    database = work / f"rclip-{rows}.sqlite3"
    if not database.exists():
        with tempfile.TemporaryDirectory() as place:
            made = Path(place) / "db.sqlite3"
            subprocess.run([rclip.parent / "python", "-c", FILL, str(made), str(rows), str(folder)], check=True)
            shutil.move(made, database)
    for file in data.glob("db.sqlite3*"):
        file.unlink()
    os.link(database, data / "db.sqlite3")

    def ours() -> float:
        return seconds_of([program(), "query", QUERY, "--index", folder, "-k", "10", "--all"], folder=folder)

    def theirs() -> float:
        return seconds_of([rclip, "-n", "--filepath-only", QUERY], folder=folder, env={"RCLIP_DATADIR": str(data)})

    return interleaved(ours, theirs, rounds)


def program() -> Path:
    """The clipsearch beside this Python."""
    return Path(sys.executable).parent / "clipsearch"


if __name__ == "__main__":
    main()
