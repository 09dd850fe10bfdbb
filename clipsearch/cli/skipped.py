"""What is said of files that were skipped."""

from __future__ import annotations

from clipsearch.records import SkipStatus

STATUS_WORDS: dict[SkipStatus, str] = {
    "not_a_picture": "that are not pictures",
    "unsupported_format": "in formats that clipsearch does not read",
    "missing_extra": "that need an optional package",
    "empty": "that are empty",
    "corrupt": "that are damaged",
    "truncated": "that are cut short",
    "too_large": "that are too large",
    "timeout": "that took too long to read",
    "decoder_crashed": "whose decoder crashed",
    "unreadable": "that could not be opened",
}
TRIED_AGAIN: dict[SkipStatus, str] = {
    "timeout": "Later runs retry these with more time, up to three times. For more time now: --timeout SECONDS",
    "decoder_crashed": "Later runs retry these, up to three times. To retry now: --retry-skipped",
    "too_large": "Later runs retry those that needed too much memory, up to three times.",
}
