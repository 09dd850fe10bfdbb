"""The HTTP API: who may ask (`security`), what may be asked (`routes`), and the work behind it.

`app.create_app` puts the parts together: `engine` (open indexes, searched in `work`'s threads), `batching` (many texts
in one encoder call), `thumbnails` and `decoders` (pictures, read in processes of their own), `metrics`. `mcp` offers
the same to AI assistants.
"""
