"""What training with defaults reaches at eight sizes, beside the best batch by hand.

Each size takes the first pairs of the product pictures, and runs `clipsearch train` with nothing but pairs and a model;
then with other batches, on the same cached features. Every run is a process; its exit status is kept.

    python -m benchmarks.train_sizes --data FOLDER [--sizes 60,150] [--json FILE] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from clipsearch.encoder.names import load_encoder
from clipsearch.evaluation.recall import evaluate
from clipsearch.pairs.encoding import encode_pairs
from clipsearch.pairs.reading import PairSet, open_pairs

SIZES = (60, 150, 300, 450, 1_000, 1_786, 5_000, 9_001)
TRAINING, OTHERS = "fashion-train-*.tar", "fashion-dev-*.tar"
BY_HAND = (0.25, 0.5, 2.0, 4.0)  # of the batch that a run chooses


def main() -> None:
    """Measure one size after the other, the smallest first, and print a row of the table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of WebDataset tars")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--json", type=Path, help="file for the numbers, written after each size")
    parser.add_argument("--work", type=Path, help="folder for runs and features (default: a temporary one)")
    asked = parser.parse_args()
    sources = sorted(asked.data.glob(TRAINING))
    others = sorted(asked.data.glob(OTHERS))
    if not sources or not others:
        raise SystemExit(f"{asked.data} has no {TRAINING} and {OTHERS}: nothing was measured")
    with tempfile.TemporaryDirectory(prefix="clipsearch-") as temporary:
        work = asked.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        pairs, apart = open_pairs(list(map(str, sources))), open_pairs(list(map(str, others)))
        print("| pairs | held out | before | chosen | best by hand | chosen, others | by hand, others | says | exit |")
        print("|---:|---:|---:|---:|---:|---:|---:|---|---:|", flush=True)
        measured = []
        for size in map(int, asked.sizes.split(",")):
            if size > len(pairs):
                print(f"only {len(pairs):,} pairs are here: {size:,} were not measured")
                continue
            found = measure_size(pairs, apart, size, asked.model, work)
            measured.append(found)
            print(row(found), flush=True)
            if asked.json:
                asked.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def measure_size(pairs: PairSet, apart: PairSet, size: int, model: str, work: Path) -> dict[str, Any]:
    """One size: the run with defaults, and those with other batches."""
    source = work / f"pairs-{size}.tar"
    write_tar(pairs.subset(range(size)), source)
    default = run(source, model, work / f"run-{size}", work, [])
    trained_on = default["pairs"]
    tried = {round(default["batch"] * factor) for factor in BY_HAND} | {trained_on}
    by_hand = [
        run(source, model, work / f"run-{size}-{batch}", work, ["--batch", str(batch)])
        for batch in sorted(tried)
        if 8 <= batch <= trained_on and batch != default["batch"]
    ]
    best = max(by_hand, key=held_out, default=default)
    for one in (default, best):
        one["others"] = recall_of(apart, one["run"])
    return {"size": size, "default": default, "best": best, "by_hand": by_hand}


def run(source: Path, model: str, out: Path, work: Path, options: list[str]) -> dict[str, Any]:
    """One `clipsearch train` in a process of its own: its report, exit status and wall time."""
    command = [sys.executable, "-m", "clipsearch", "train", str(source), "--model", model, "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--json", "--quiet", *options],
        env={**os.environ, "CLIPSEARCH_CACHE_DIR": str(work / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = round(time.perf_counter() - began, 1)
    if not done.stdout.strip():
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return {**json.loads(done.stdout), "exit": done.returncode, "wall_s": seconds, "run": str(out)}


def held_out(report: dict[str, Any]) -> float:
    """Recall@10 on the held-out pairs, in percent."""
    return float(report["dev_after"]["text_to_image_r10"])


def recall_of(apart: PairSet, model: str) -> float:
    """Recall@10 of a run among pictures that it never saw, in percent."""
    encoded = encode_pairs(load_encoder(model), apart)
    metrics = evaluate(encoded.pictures.vectors, encoded.texts, encoded.owner)
    return round(100 * metrics.text_to_image.recall(10), 1)


def write_tar(pairs: PairSet, target: Path) -> None:
    """Pairs as a WebDataset tar."""
    with tarfile.open(target, "w") as tar:
        for number, pair in enumerate(pairs):
            suffix = pair.source.name.rpartition(".")[2]
            for ending, data in ((suffix, pair.read()), ("txt", "\n".join(pair.captions).encode())):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    default, best = found["default"], found["best"]
    cells = [
        f"{found['size']:,}",
        f"{default['dev_pairs']:,}",
        f"{default['dev_before']['text_to_image_r10']:.1f}",
        f"{held_out(default):.1f} ({default['batch']:,})",
        f"{held_out(best):.1f} ({best['batch']:,})",
        f"{default['others']:.1f}",
        f"{best['others']:.1f}",
        default["verdict"],
        str(default["exit"]),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
