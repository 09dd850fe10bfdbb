"""The API's reference as a plain page, from its OpenAPI description: the usual viewers load scripts from elsewhere."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_STYLE = """body { font: 1em/1.5 system-ui; max-width: 60em; margin: 2em auto; padding: 0 1em;
  color-scheme: light dark }
td { vertical-align: top; padding-right: 1em }"""


PUBLIC = frozenset({"/healthz"})
"""Documented routes that need no token."""


def add_security(app: FastAPI, cookie: str) -> None:
    """Let the description of `app` say how clients show a token, and that there may be none to show."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        described = made()
        if "securitySchemes" not in described.setdefault("components", {}):
            described["components"]["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer", "description": "Unless the server needs no token."},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie, "description": "Set by /login."},
            }
            for path, methods in described["paths"].items():
                for route in methods.values():
                    route["security"] = [] if path in PUBLIC else [{"token": []}, {"session": []}, {}]
                    if path not in PUBLIC:
                        problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
                        for code, why in ((401, "A token is required"), (403, "Another site"), (421, "Unknown host")):
                            route["responses"].setdefault(str(code), {"description": why, "content": problem})
        return described

    app.openapi = openapi  # type: ignore[method-assign]


def add_reference(app: FastAPI) -> None:
    """Add the page to `app`, as /docs."""

    @cache  # made once: whoever asks for it again and again would keep others waiting
    def page() -> str:
        return reference_page(app.openapi())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page(), headers={"content-security-policy": _POLICY})


def reference_page(described: dict[str, Any]) -> str:
    """The page for an OpenAPI description."""
    parts = []
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(_said(route))}</p>")
            rows = [(p["name"], p["schema"], p.get("description", "")) for p in route.get("parameters", ())]
            for kind, body in route.get("requestBody", {}).get("content", {}).items():
                parts.append(f"<p>Body: <code>{escape(kind)}</code></p>")
                fields = _resolved(body["schema"], described).get("properties", {})
                rows += [(name, field, field.get("description", "")) for name, field in fields.items()]
            if rows:
                lines = (
                    f"<tr><td><code>{escape(name)}</code></td><td>{escape(text)} {escape(_default(schema))}</td></tr>"
                    for name, schema, text in rows
                )
                parts.append(f"<table>{''.join(lines)}</table>")
            answers = (f"{code} {escape(answer['description'])}" for code, answer in route["responses"].items())
            parts.append(f"<p>Answers: {'; '.join(answers)}.</p>")
    info = described["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f'<p>{escape(info["description"])} Machine-readable: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(parts)}</html>"
    )


def _said(route: dict[str, Any]) -> str:
    return " ".join(str(route.get("description") or route.get("summary", "")).split())


def _default(schema: dict[str, Any]) -> str:
    return f"(default: {json.dumps(schema['default'])})" if "default" in schema else ""


def _resolved(schema: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema
    if "$ref" in schema:
        found = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found
