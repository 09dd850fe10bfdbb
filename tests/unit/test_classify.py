"""Labels, templates, folders of classes, and accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.classify.templates import TEMPLATES
from clipsearch.classify.zero_shot import (
    Label,
    Likeliest,
    ZeroShot,
    indexed_pictures,
    measure,
    open_class_folder,
    parse_label,
    read_labels,
    resolve_templates,
    softmax,
    split_labels,
    truth_in,
    wilson,
    zero_shot,
)
from clipsearch.encoder.names import load_encoder
from clipsearch.errors import InvalidLabels, NoPictures
from clipsearch.indexer.build import index_folder
from clipsearch.pairs.encoding import encode_pictures
from clipsearch.records import FloatArray
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    for colour in ("red", "green", "blue"):
        (tmp_path / colour / "more").mkdir(parents=True)
        plain(COLOURS[colour]).save(tmp_path / colour / "1.png")
        plain(COLOURS[colour]).save(tmp_path / colour / "more/2.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".clipsearch").mkdir()
    plain((1, 2, 3)).save(tmp_path / ".clipsearch/x.png")
    return tmp_path


def test_labels_find_their_pictures(colours: Path) -> None:
    found = open_class_folder(colours)
    assert found.classes == ("blue", "green", "red")
    assert found.truth.tolist() == [0, 0, 1, 1, 2, 2]
    encoder = FakeEncoder()
    classifier = zero_shot(encoder, [parse_label("red|pink"), Label("Green", ("green",)), parse_label("blue")])
    encoded = encode_pictures(encoder, found.sources, workers=1)
    truth = truth_in(classifier.labels, found)
    assert truth is not None
    accuracy = measure(classifier.probabilities(encoded.vectors), truth)
    assert (accuracy.top1, accuracy.balanced, accuracy.top5) == (1, 1, None)
    assert accuracy.confusion.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]


def test_a_label_is_the_mean_of_its_sentences() -> None:
    encoder = FakeEncoder()
    found = zero_shot(encoder, [parse_label("red|pink"), parse_label("blue")], ["plain", "the {} one"])
    sentences = encoder.encode_texts(["red", "the red one", "pink", "the pink one"])
    expected = sentences.mean(axis=0) / np.linalg.norm(sentences.mean(axis=0))
    assert found.vectors[0] == pytest.approx(expected, abs=1e-6)
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1)
    assert found.probabilities(found.vectors).sum(axis=1) == pytest.approx(1)


def test_templates() -> None:
    assert resolve_templates(["photo", "photos", "a {} here"])[-1] == "a {} here"
    assert len(resolve_templates(["photo", "photos"])) == len(TEMPLATES["photos"])
    for name, sentences in TEMPLATES.items():
        assert all(sentence.count("{}") == 1 for sentence in sentences), name
        assert len(set(sentences)) == len(sentences)
    with pytest.raises(InvalidLabels, match="'holiday' is not a template"):
        resolve_templates(["holiday"])


def test_labels_from_text_and_files(tmp_path: Path) -> None:
    assert parse_label(" fire  truck | fire engine|fire truck") == Label("fire truck", ("fire truck", "fire engine"))
    (tmp_path / "labels.txt").write_text("\ufeffdog|puppy\n\n# not one\ncat\n", encoding="utf-8")
    assert [label.name for label in read_labels(tmp_path / "labels.txt")] == ["dog", "cat"]
    encoder = FakeEncoder()
    for labels, message in ((["dog"], "at least two labels"), (["dog", "Dog"], "'Dog' is given twice")):
        with pytest.raises(InvalidLabels, match=message):
            zero_shot(encoder, [parse_label(label) for label in labels])
    with pytest.raises(InvalidLabels, match="is not a label"):
        parse_label(" | ")
    with pytest.raises(InvalidLabels, match="cannot be read"):
        read_labels(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("text", "which"),
    [("beach,,city", "2 of 3"), (" , ", "1 of 2"), ("beach, city,", "3 of 3"), ("", "1 of 1"), ("beach,|", "2 of 2")],
)
def test_an_empty_label_is_refused(text: str, which: str) -> None:
    with pytest.raises(InvalidLabels, match=f"label {which} in"):
        split_labels(text)
    with pytest.raises(InvalidLabels, match="a label is empty"):
        zero_shot(FakeEncoder(), [Label("beach", ("beach",)), Label(" ", (" ",))])


def test_labels_are_split_at_commas() -> None:
    assert [label.name for label in split_labels(" beach , hills|mountains,city")] == ["beach", "hills", "city"]


def test_a_label_that_the_model_cannot_read_is_refused() -> None:
    encoder = load_encoder("builtin")
    for text, said in (
        ("dog, собака", "'собака'"),
        ("dog|🐶, cat", "'🐶'"),
        ("cat, dog ᚠᛇᚻ", "'ᚠᛇᚻ' in the label 'dog ᚠᛇᚻ'"),
    ):
        with pytest.raises(InvalidLabels, match=f"the model cannot read {said}"):
            zero_shot(encoder, split_labels(text), ["plain"])
    assert zero_shot(encoder, split_labels("Café, 犬, 2 dogs"), ["plain"]).labels == ("Café", "犬", "2 dogs")


def test_truth_needs_every_picture_in_a_known_class(colours: Path) -> None:
    found = open_class_folder(colours)
    assert truth_in(["RED", "green", "blue", "white"], found) is not None
    assert truth_in(["red", "green"], found) is None
    plain((0, 0, 0)).save(colours / "loose.png")
    assert truth_in(["red", "green", "blue"], open_class_folder(colours)) is None
    with pytest.raises(NoPictures):
        open_class_folder(colours / ".clipsearch/none")


def test_accuracy_by_hand() -> None:
    probabilities = np.array(
        [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]], np.float32
    )  # the third is a tie, which counts against
    found = measure(probabilities, np.array([0, 0, 0, 2]))
    assert found.top1 == 0.5
    assert found.balanced == pytest.approx((1 / 3 + 1) / 2)
    assert found.confusion.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert found.top5 is None
    many = softmax(np.eye(7, dtype=np.float32))
    assert measure(many, np.arange(7)).top5 == 1
    assert measure(many[:, ::-1], np.arange(7)).top5 == pytest.approx(1 / 7)


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_an_index_gives_its_vectors_without_deleted_pictures(colours: Path, encoder: FakeEncoder) -> None:
    (colours / ".clipsearch/x.png").unlink()
    index_folder(colours, encoder)
    (colours / "red/1.png").unlink()
    plain(COLOURS["white"]).save(colours / "new.png")
    report = index_folder(colours, encoder)
    found = {record.path: vector for records, vectors in indexed_pictures(report.index)
             for record, vector in zip(records, vectors, strict=True)}  # fmt: skip
    assert sorted(found) == ["blue/1.png", "blue/more/2.png", "green/1.png", "green/more/2.png", "new.png",
                             "red/more/2.png"]  # fmt: skip
    assert found["new.png"] @ encoder.encode_texts(["white"])[0] > 0.9


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(0, 100))
def test_the_likeliest_label_of_pictures_in_parts_is_judged_by_its_best_picture(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, *parts = [unit_rows_of(rng, size) for size in (3, *sizes)]
    likeliest = Likeliest(ZeroShot(("a", "b", "c"), labels, 1.0))
    for part in parts:
        likeliest.add(part)
    asked: dict[int, float] = {}

    def judge(cosines: FloatArray, vector: FloatArray, best: float) -> FloatArray:
        asked[int((labels @ vector).argmax())] = best
        return np.asarray(cosines / 2, np.float32)

    found = likeliest.confidences(judge)
    cosines = np.concatenate(parts) @ labels.T
    np.testing.assert_allclose(found, cosines.max(axis=1, initial=-9) / 2, atol=1e-6)
    for label, best in asked.items():
        assert best == pytest.approx(cosines[:, label].max(), abs=1e-6)
    assert set(asked) == set(cosines.argmax(axis=1).tolist())


def unit_rows_of(rng: np.random.Generator, rows: int) -> FloatArray:
    vectors = rng.standard_normal((rows, 4)).astype(np.float32)
    scaled: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
