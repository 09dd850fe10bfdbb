"""Pictures with captions: reading, checking and encoding them. No torch."""
