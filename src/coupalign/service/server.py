"""Runs the service with uvicorn."""

from __future__ import annotations

from collections.abc import Callable

import uvicorn

from coupalign.checks import free_port
from coupalign.service.app import Metrics, build_app
from coupalign.service.batcher import Batcher, Model
from coupalign.service.guard import Limits

_CONNECTIONS = 1000  # further ones get uvicorn's own 503
_IDLE_SECONDS = 5  # after which an unused connection is closed


def serve(load: Callable[[], Model], host: str, port: int, batch_pairs: int, limits: Limits) -> None:
    """Loads the model, then answers requests until SIGINT or SIGTERM. Raises: UserError."""
    port = free_port(host, port)
    metrics = Metrics()
    batcher = Batcher(load, batch_pairs, metrics.batches.observe)
    try:
        print(f"http://{host}:{port}/openapi.json  (press Ctrl-C to stop)", flush=True)
        uvicorn.run(
            build_app(batcher, metrics, limits),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=int(limits.seconds),
        )
    finally:
        batcher.close()
