"""Small files that programs leave in the place of files that they fetch again when somebody asks for them.

They prove that a picture whose name is gone was not deleted: it is missing, and back when its file is.
"""

from __future__ import annotations

_ENDINGS = (".nextcloud", ".owncloud", ".opencloud", ".cloud", ".cloudf", ".dvc")
"""What sync clients with virtual files (Nextcloud, ownCloud, OpenCloud, odrive) and DVC put behind the names of files
and folders."""


def stands_for(name: str) -> str | None:
    """The name of the file or folder that a file of this name stands for, if it is such a placeholder."""
    if name.endswith(".icloud"):  # .NAME.icloud
        return name[1:-7] if name[0] == "." and len(name) > 8 else None
    for ending in _ENDINGS:
        if name.endswith(ending):
            return name[: -len(ending)] or None
    return None
