"""The browser interface and the HTTP API beside it.

`server.create_app` puts the parts together: `security` (who may ask), `routes` (what may be asked), `engine` (open
indexes, searched in `work`'s threads), `batching` (many texts in one encoder call), `thumbnails` and `decoders`
(pictures, read in processes of their own), `metrics`. `page` is the browser interface, `page_routes` what it asks.
"""
