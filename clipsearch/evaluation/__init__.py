"""Recall and other measures with their intervals, and their plots. No torch."""
