"""An index for other programs: as a file, or in a database of vectors.

`targets` has the table of what can be written, a line each. `pictures` says which rows, and what is in them; `run` does
the work. A database gets a table (collection) of its own, which an export marks when it creates it. Later exports of
the same index write what changed and remove what is gone. They touch no table without the mark, and no row of somebody
else in one with it.
"""
