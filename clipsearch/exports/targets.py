"""The table of targets, and what a target says: which kind, where, and what of it must not be shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from clipsearch.errors import InvalidTarget


class Kind(NamedTuple):
    """Something that can be exported to. `module` of this folder writes it; `extra` installs what that needs. A target
    is of the kind whose prefix or whose extension it has. `example` is for help and messages."""

    name: str
    module: str
    example: str
    prefixes: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    extra: str | None = None
    keeps_prefix: bool = False  # as part of the address
    secrets: tuple[str, ...] = ()  # environment variables whose values are never shown


KINDS = (
    Kind("Parquet", "files", "photos.parquet", extensions=(".parquet", ".pq")),
    Kind("Arrow", "files", "photos.arrow", extensions=(".arrow", ".feather", ".ipc")),
    Kind("LanceDB", "lance", "lancedb:FOLDER", ("lancedb:",), extra="lancedb", secrets=("LANCEDB_API_KEY",)),
    Kind(
        "PostgreSQL with pgvector",
        "postgres",
        "postgresql://USER@HOST/DATABASE",
        ("postgresql:", "postgres:"),
        extra="pgvector",
        keeps_prefix=True,
        secrets=("PGPASSWORD",),
    ),
    Kind("Qdrant", "qdrant", "qdrant:http://HOST:6333", ("qdrant:",), extra="qdrant", secrets=("QDRANT_API_KEY",)),
    Kind("Milvus", "milvus", "milvus:http://HOST:19530", ("milvus:",), extra="milvus", secrets=("MILVUS_TOKEN",)),
)
TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
DEFAULT_TABLE = "clipsearch"
SHORT = 4  # letters of a password
_SECRET = re.compile(r"pass(word|wd)?$|secret|token|api_?key|^key$", re.I)


@dataclass(frozen=True, slots=True)
class Target:
    """A target that somebody named. `shown` is how it is called: without passwords, which are in `secrets`."""

    kind: Kind
    address: str
    shown: str
    secrets: tuple[str, ...]

    @property
    def is_file(self) -> bool:
        """Whether it is one file, not a table of a database."""
        return self.kind.module == "files"

    @property
    def folder(self) -> Path | None:
        """Where it is on this machine, if it is here."""
        return None if "://" in self.address else Path(self.address)

    def without_secrets(self, text: str) -> str:
        """What a database said, without passwords."""
        for secret in self.secrets:
            if len(secret) < SHORT and secret in text:  # what is left out would tell what it is
                return "the database refused"
            text = text.replace(secret, "***")
        return text


def read_target(text: str) -> Target:
    """What a target means. Raises: InvalidTarget."""
    kind = next((kind for kind in KINDS if text.startswith(kind.prefixes)), None) if text else None
    if kind is None:
        return Target(_kind_of_file(text), text, text, ())
    address = text if kind.keeps_prefix else text.split(":", 1)[1]
    shown, secrets = hide(text)
    secrets += tuple(value for name in kind.secrets if (value := os.environ.get(name)))
    if not address or (kind.keeps_prefix and "://" not in address):
        raise InvalidTarget(shown, f"it does not say where. Write it as: {kind.example}")
    return Target(kind, address, shown, tuple(sorted(set(secrets), key=len, reverse=True)))


def _kind_of_file(text: str) -> Kind:
    path = Path(text)
    for kind in KINDS:
        if path.name.lower().endswith(kind.extensions or ("\0",)):
            return kind
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe, /dev/stdout
        return KINDS[0]
    shown, _ = hide(text)
    known = ", ".join(kind.example for kind in KINDS)
    raise InvalidTarget(shown, f"its name does not say what to write. Name one of: {known}")


def read_table(name: str | None) -> str:
    """The name of a table, if it can be one everywhere. Raises: InvalidTarget."""
    if name is None:
        return DEFAULT_TABLE
    if TABLE_NAME.fullmatch(name) is None:
        raise InvalidTarget(
            name, "not a name for a table. Use up to 63 letters, digits and _, and begin with a letter or _"
        )
    return name


def hide(text: str) -> tuple[str, tuple[str, ...]]:
    """A URL without its passwords, and these: as they are written, and decoded."""
    head, separator, rest = text.partition("://")
    if not separator:
        return text, ()
    secrets: list[str] = []
    place, mark, query = rest.partition("?")
    before, at, host = place.rpartition("@")  # a password may have an @ or a / that was not escaped
    if at:
        user, colon, password = before.partition(":")
        secrets.append(password)
        before = f"{user}{':***' if colon else ''}"
    for name, value in parse_qsl(urlsplit(f"x://x?{query}").query, keep_blank_values=True):
        if _SECRET.search(name):
            secrets.append(value)
    parts = [
        f"{part.partition('=')[0]}=***" if _SECRET.search(unquote(part.partition("=")[0])) else part
        for part in query.split("&")
    ]
    secrets += [part.partition("=")[2] for part in query.split("&") if _SECRET.search(unquote(part.partition("=")[0]))]
    found = {form for secret in secrets for form in (secret, unquote(secret)) if form}
    return f"{head}://{before}{at}{host}{mark}{'&'.join(parts)}", tuple(sorted(found))
