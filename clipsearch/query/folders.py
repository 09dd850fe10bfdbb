"""`folder:my trips`, whose quotes a shell took: they are put back where only so there is such a folder."""

from __future__ import annotations

import re
from collections.abc import Callable

MOST_WORDS = 6
_UNQUOTED_FOLDER = r"(?P<field>(?<![\w:])folder:)(?P<value>[^\s\"“„()*?]+(?:\s+[^\s\"“„()*?:]+(?![\w:]))*)"


def requoted(query: str, is_folder: Callable[[str], bool]) -> str:
    """A query with quotes around the names of folders of several words, where only so there is such a folder.

    `is_folder`: whether there is a folder that a name fits. The longest name of up to MOST_WORDS words counts.
    """

    def with_quotes(match: re.Match[str]) -> str:
        words = re.split(r"(\s+)", match["value"])
        if len(words) == 1 or is_folder(words[0]):
            return match[0]
        for count in range(min(len(words), 2 * MOST_WORDS - 1), 1, -2):
            name = "".join(words[:count])
            if is_folder(name):
                return f'{match["field"]}"{name}"{"".join(words[count:])}'
        return match[0]

    return re.sub(_UNQUOTED_FOLDER, with_quotes, query, flags=re.IGNORECASE) if query.count('"') == 0 else query
