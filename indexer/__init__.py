"""Turn a folder of pictures into an index: scan, decode ahead, encode, commit, compact, verify."""
