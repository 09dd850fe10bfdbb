"""Labels for pictures: zero-shot from words, or a probe learnt from examples. No torch."""
