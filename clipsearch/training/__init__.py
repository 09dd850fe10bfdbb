"""Fine-tuning on one's own pairs of pictures and captions. With `encoder.openclip` the only importer of PyTorch."""
