"""Whatever asks an index: collections, filters, confidence, variety, feedback, concepts, near-duplicates."""
