"""The steps of `scripts/make_builtin_model.py`: download, backbones, features, training, export."""
