"""The web server of the page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from coupalign.checks import free_port
from coupalign.demo.engines import LiteEngine, MindSporeEngine
from coupalign.errors import UserError
from coupalign.inference.uploads import MAX_MEGABYTES

# A browser that obeys this loads nothing from other servers.
_SOURCES = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
_POLICY = f"{_SOURCES}; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
_SESSIONS = 64  # whose results are kept
_FONTS = ("system-ui", "Arial", "sans-serif")  # Gradio's own theme loads fonts from another server


@contextmanager
def served(engine: MindSporeEngine | LiteEngine, host: str, port: int) -> Iterator[str]:
    """Compiles the model, runs the page in the background and yields its address. Raises: UserError.

    Uploads and pictures are kept in a temporary directory. Port 0 means any free port.
    """
    port = free_port(host, port)
    with tempfile.TemporaryDirectory(prefix="coupalign-page-") as directory:
        # Gradio reads both when it is imported or a component is made.
        os.environ.update(GRADIO_TEMP_DIR=str(Path(directory).resolve()), GRADIO_ANALYTICS_ENABLED="False")
        try:
            import gradio as gr
            from starlette.middleware import Middleware
        except ImportError as error:
            raise UserError("the page needs Gradio: python -m pip install -r requirements-demo.txt") from error
        from coupalign.demo.page import CSS, EXAMPLES, build_page

        engine.answer(np.zeros((64, 64, 3), np.uint8), "object")
        page = build_page(engine)
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            theme=gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=("monospace",)),
            css=CSS,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_MEGABYTES * 2**20,
            footer_links=[],
            ssr_mode=False,
            allowed_paths=[str(EXAMPLES)],
            enable_monitoring=False,
            state_session_capacity=_SESSIONS,
            app_kwargs={"middleware": [Middleware(_Policy)]},
        )
        try:
            yield url
        finally:
            page.close(verbose=False)


class _Policy:
    """ASGI middleware that adds the Content-Security-Policy to every response."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self._app(scope, receive, send_with_policy if scope["type"] == "http" else send)
