"""What is said of files that were skipped."""

from __future__ import annotations

from clipsearch.records import SkipStatus

STATUS_WORDS: dict[SkipStatus, str] = {
    "not_a_picture": "that are not pictures",
    "unsupported_format": "in formats that clipsearch does not read",
    "missing_extra": "that need an optional part",
    "empty": "that are empty",
    "corrupt": "that are damaged",
    "truncated": "that end too early",
    "too_large": "that are too large",
    "timeout": "that took too long to read",
    "decoder_crashed": "whose decoder crashed",
    "unreadable": "that could not be opened",
}
TRIED_AGAIN: dict[SkipStatus, str] = {
    "timeout": "The next runs try these again with more time, three times in all. More time now: --timeout SECONDS",
    "decoder_crashed": "The next runs try these again, up to three times in all. At any time: --retry-skipped",
    "too_large": "The next runs try again what needed too much memory, up to three times in all.",
}
