"""Mount the browser interface beside the API. The only importer of Gradio beside the page itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastapi import FastAPI

if TYPE_CHECKING:
    from gradio import Blocks


def mount(app: FastAPI, page: Blocks) -> FastAPI:
    """Mount `page` at "/", after the routes that are there. No folder of this machine is served by it."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio

    mounted: FastAPI = gradio.mount_gradio_app(
        app, page, path="/", allowed_paths=[], run_history=False, ssr_mode=False, footer_links=[], show_error=True
    )
    return mounted
