"""Mount the browser interface beside the API. The only importer of Gradio beside the page itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

if TYPE_CHECKING:
    from gradio import Blocks


def mount(app: FastAPI, page: Blocks, **look: Any) -> FastAPI:
    """Mount `page` at "/", after the routes that are there. No folder of this machine is served by it.

    `look` is what Gradio takes of theme, styles and root path.
    """
    import gradio

    # Gradio takes any path of this machine for an upload as long as a page was not launched, and mounting is not.
    page.has_launched = True
    _fetch_nothing()
    mounted: FastAPI = gradio.mount_gradio_app(
        app,
        page,
        path="/",
        allowed_paths=[],
        run_history=False,
        ssr_mode=False,
        footer_links=[],
        show_error=True,
        **look,
    )
    return mounted


def _fetch_nothing() -> None:
    """Keep Gradio from fetching what a request names: it would fetch any public address given for an upload."""
    from gradio import processing_utils
    from gradio.exceptions import Error

    async def refuse(url: str, cache_dir: str) -> str:
        raise Error("this server does not fetch URLs: send the picture itself")

    processing_utils.async_ssrf_protected_download = refuse
