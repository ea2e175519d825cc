"""The endpoints of the service."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from fastapi import FastAPI, File, Form, Request, Response, Security, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import coupalign
from coupalign.data.masks import run_lengths
from coupalign.inference.prediction import Prediction
from coupalign.inference.uploads import (
    MAX_CHARACTERS,
    MAX_EXPRESSIONS,
    MAX_MEGABYTES,
    Refused,
    check_expressions,
    check_image,
)
from coupalign.service.batcher import Batcher
from coupalign.service.guard import Guard, Limits

WARNINGS = "X-Warnings"  # header of PNG answers


class RunLengths(BaseModel):
    """COCO's compressed run lengths."""

    size: tuple[int, int]  # height and width
    counts: str


class Found(BaseModel):
    """The answer to one expression."""

    expression: str
    rle: RunLengths
    box: tuple[int, int, int, int] | None  # x, y, width, height; null if the mask is empty
    score: float  # largest probability of a pixel
    existence: float | None  # probability that something fits; null for models without this output
    nothing_fits: bool
    warnings: list[str]


class Answer(BaseModel):
    """The answer to a request, in the order of its expressions."""

    width: int
    height: int
    results: list[Found]


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str


class Metrics:
    """Counters of one service, in the text format of Prometheus at /metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "coupalign_requests", "Answers by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram("coupalign_request_seconds", "Time of answers of /v1/segment", registry=self.registry)
        self.batches = Histogram(
            "coupalign_batch_pairs", "Pairs per batch", buckets=[1, 2, 4, 8, 16, 32], registry=self.registry
        )


class Counted:
    """ASGI middleware that counts answers by path and status; unknown paths count as one."""

    def __init__(self, app: Any, metrics: Metrics, paths: tuple[str, ...]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start = time.perf_counter()

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.requests.labels(path, message["status"]).inc()
                if path == "/v1/segment":
                    self._metrics.seconds.observe(time.perf_counter() - start)
            await send(message)

        await self._app(scope, receive, counting if scope["type"] == "http" else send)


_IMAGE_TYPES = {"image": {"contentType": "image/jpeg, image/png, image/webp, image/bmp, image/tiff"}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The image or an expression cannot be used", "model": Problem},
    401: {"description": "The header X-API-Key is missing or wrong", "model": Problem},
    408: {"description": "The request did not arrive in time", "model": Problem},
    413: {"description": "The request is too large", "model": Problem},
    422: {"description": "A field is missing or has another type", "model": Problem},
    503: {"description": "Overloaded: try again after the seconds in the header Retry-After", "model": Problem},
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Answer,
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            WARNINGS: {"description": "With image/png: the warnings, a list in JSON", "schema": {"type": "string"}}
        },
    },
    **_PROBLEMS,
}


def build_app(batcher: Batcher, metrics: Metrics, limits: Limits) -> Any:
    """The ASGI application of a loaded model."""
    # The pages /docs and /redoc would load scripts from another server.
    app = FastAPI(title="CoupAlign", version=coupalign.__version__, docs_url=None, redoc_url=None)
    tokenizer = batcher.predictor.tokenizer
    # For the description only; Guard checks the key.
    key = [Security(APIKeyHeader(name="X-API-Key", auto_error=False))] if limits.key else []

    @app.post(
        "/v1/segment",
        responses=_ANSWERS,
        response_model=None,
        dependencies=key,
        openapi_extra={"requestBody": {"content": {"multipart/form-data": {"encoding": _IMAGE_TYPES}}}},
    )
    async def segment(
        image: Annotated[UploadFile, File(description=f"JPEG, PNG, WebP, BMP or TIFF, up to {MAX_MEGABYTES} MB")],
        expressions: Annotated[
            list[str],
            Form(
                description=f"what to find; the field once per expression, up to {MAX_EXPRESSIONS}",
                json_schema_extra={
                    "minItems": 1,
                    "maxItems": MAX_EXPRESSIONS,
                    "items": {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS},
                },
            ),
        ],
        output: Annotated[
            Literal["json", "png", ""],  # FastAPI takes an empty field for a missing one
            Form(description="png: the mask itself, 0 and 255, for a single expression; empty is json"),
        ] = "json",
    ) -> Response:
        """The mask of what each expression refers to in the image."""
        texts = check_expressions(expressions, tokenizer)
        if output == "png" and len(texts) > 1:
            raise Refused("output png is for a single expression: send one, or ask for json.")
        rgb = await run_in_threadpool(check_image, await image.read(), image.filename or "the image")
        found = await batcher.predict(rgb, texts)
        if output == "png":
            headers = {WARNINGS: json.dumps(found[0].warnings)}  # escapes what is not ASCII
            return Response(_png(found[0].mask), headers=headers, media_type="image/png")
        return JSONResponse(await run_in_threadpool(_answer, rgb, texts, found))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers once the model is loaded."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def measured() -> Response:
        """Counters in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "The server could not answer this; the reason is in its log."}, 500)

    return Counted(Guard(app, limits), metrics, ("/v1/segment", "/healthz", "/metrics", "/openapi.json"))


def _png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()


def _answer(rgb: np.ndarray, expressions: list[str], found: list[Prediction]) -> dict[str, Any]:
    results = [
        Found(
            expression=expression,
            rle=RunLengths(**run_lengths(each.mask)),
            box=each.box,
            score=each.score,
            existence=each.existence,
            nothing_fits=each.nothing_fits,
            warnings=list(each.warnings),
        )
        for expression, each in zip(expressions, found)
    ]
    return Answer(width=rgb.shape[1], height=rgb.shape[0], results=results).model_dump()
