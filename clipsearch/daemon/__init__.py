"""A process of this user that has an index open answers the next queries: `client` asks it, `server` answers.

`python -m clipsearch.daemon INDEX` is one that does nothing else; `clipsearch serve` and `ui` answer too.
"""
