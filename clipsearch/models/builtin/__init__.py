"""The embedded model: see MODEL_CARD.md beside this file."""
