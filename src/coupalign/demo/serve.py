"""The page behind an address."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from coupalign.demo.asked import MAX_MEGABYTES
from coupalign.demo.engines import Engine
from coupalign.errors import UserError

# Everything comes from this server; a browser that obeys this asks no other.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; form-action 'self'; "
    "base-uri 'self'"
)
_SESSIONS = 64  # whose results are kept
_FONTS = ("system-ui", "Arial", "sans-serif")


def serve(engine: Engine, host: str, port: int) -> None:
    """Shows the page until it is interrupted."""
    with served(engine, host, port) as url:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uploads are removed then too
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        threading.Event().wait()


@contextmanager
def served(engine: Engine, host: str, port: int) -> Iterator[str]:
    """Runs the page in the background, once the model is compiled, and yields its address.

    Uploads and pictures are in a directory that is gone afterwards. Port 0 takes any free one.

    Raises: UserError where Gradio is missing or the address is not to be had.
    """
    port = _free_port(host, port)
    with tempfile.TemporaryDirectory(prefix="coupalign-page-") as directory:
        # Both are read when Gradio is imported or a component is made.
        os.environ.update(GRADIO_TEMP_DIR=str(Path(directory).resolve()), GRADIO_ANALYTICS_ENABLED="False")
        try:
            import gradio as gr
            from starlette.middleware import Middleware
        except ImportError as error:
            raise UserError("the page needs Gradio: python -m pip install -r requirements-demo.txt") from error
        from coupalign.demo.page import CSS, EXAMPLES, build_page

        engine.answer(np.zeros((64, 64, 3), np.uint8), "object")
        page = build_page(engine)
        theme = gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=("monospace",))
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            css=CSS,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_MEGABYTES * 2**20,
            footer_links=[],
            ssr_mode=False,
            allowed_paths=[str(EXAMPLES)],
            enable_monitoring=False,
            mcp_server=False,
            state_session_capacity=_SESSIONS,
            inbrowser=False,
            app_kwargs={"middleware": [Middleware(_Policy)]},
        )
        try:
            yield url
        finally:
            page.close(verbose=False)


class _Policy:
    """ASGI middleware that adds what a browser may load to every answer."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self._app(scope, receive, send_with_policy if scope["type"] == "http" else send)


def _free_port(host: str, port: int) -> int:
    """`port`, or where that is 0 another, which nobody listens at."""
    if not 0 <= port < 65536:
        raise UserError(f"--port {port} is none: choose one of 1024 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            return tried.getsockname()[1]
    except OSError as error:
        raise UserError(
            f"{host}:{port} is not to be had ({error.strerror}): choose another --port or --host"
        ) from error
