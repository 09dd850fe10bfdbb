"""clipsearch: type a sentence, see your photos."""

__version__ = "0.1.0"
