"""What is wrong with a request that does not have the form that it needs: in our words, without what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SHOWN = 20
_AROUND = ("body", "query", "path", "form")  # where FastAPI says that a field is


def problems(errors: Sequence[Any]) -> str:
    """The first errors of a validation by pydantic, as `ValidationError.errors()` lists them."""
    return "; ".join(dict.fromkeys(_problem(error) for error in errors[:SHOWN]))


def _problem(error: Any) -> str:
    where = [str(part) for part in error["loc"]]
    name = ".".join(where[1:] if len(where) > 1 and where[0] in _AROUND else where)
    about, kind = error.get("ctx") or {}, error["type"]
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        return f"there is no field {name}"
    if kind == "value_error":
        return f"{name}: {about['error']}" if name else str(about["error"])
    return f"{name}: it must be {_WANTED[kind].format(**about)}" if kind in _WANTED else f"{name}: {error['msg']}"


_WANTED = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "string_type": "a text",
    "string_unicode": "a text of whole characters",
    "string_too_long": "a text of at most {max_length} characters",
    "string_pattern_mismatch": "a text of the form {pattern}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_long": "a list of at most {max_length} values",
    "too_short": "a list of at least {min_length} values",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "dict_type": "an object",
    "json_invalid": "JSON",
}
"""By pydantic's names of errors."""
