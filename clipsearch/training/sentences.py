"""General sentences, made from a small grammar: what people say of everyday photographs.

`heads` and `locked-image` hold the vectors of these where they were while they train.
"""

from __future__ import annotations

import numpy as np

SUBJECTS = (
    "a man", "a woman", "a little girl", "a young boy", "two people", "a group of friends", "an old man", "a couple",
    "three children", "a crowd", "a dog", "two dogs", "a black dog", "a brown and white dog", "a cat", "a bird",
    "a horse", "a family", "a baby", "a boy in a red shirt", "a woman in a black coat", "a man with a hat",
    "a girl in a pink dress", "several people", "a player in a blue uniform", "a person on a bicycle",
)  # fmt: skip
ACTIONS = (
    "running", "sitting", "standing", "walking", "jumping", "playing", "looking at the camera", "swimming", "climbing",
    "riding a bike", "holding a ball", "eating", "reading a book", "talking", "smiling", "sleeping", "taking a picture",
    "catching a frisbee", "dancing", "skateboarding", "playing guitar", "throwing a stick", "pushing a cart",
)  # fmt: skip
PLACES = (
    "on a beach", "in the grass", "in a park", "on a street", "in the snow", "near the water", "in front of a building",
    "on a bench", "in a kitchen", "at a table", "on a mountain", "in the woods", "at night", "on a wooden floor",
    "in a crowd", "by a lake", "under a tree", "on a rock", "in a field", "at a market", "in a city", "on a sofa",
)  # fmt: skip
VIEWS = (
    "a sunset over the sea", "snowy mountains", "a bowl of fruit", "a cup of coffee on a table", "an old church",
    "a bridge over a river", "cars in traffic", "a train at a station", "a sailing boat", "flowers in a vase",
    "a birthday cake with candles", "a kitchen with white cupboards", "a waterfall in the forest", "city lights",
    "a plate of food", "an airplane in the sky", "a narrow street with shops", "a wooden house", "handwritten notes",
    "a field of flowers", "a lighthouse on the coast", "a computer on a desk", "a football game", "a concert",
)  # fmt: skip


def general_sentences(count: int = 1500, seed: int = 0) -> list[str]:
    """That many different sentences, always the same ones."""
    random = np.random.default_rng(seed)
    found = dict.fromkeys(f"{form}{view}" for form in ("", "a photo of ") for view in VIEWS)
    while len(found) < count:
        subject, action, place = (str(random.choice(words)) for words in (SUBJECTS, ACTIONS, PLACES))
        verb = "are" if subject.startswith(("two", "three", "several")) else "is"
        forms = (f"{subject} {verb} {action} {place}", f"{subject} {action} {place}.", f"{subject} {place}")
        found[str(random.choice(forms)).capitalize() if random.random() < 0.5 else forms[1]] = None
    return list(found)
