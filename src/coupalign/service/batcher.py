"""Collects pairs of images and expressions from concurrent requests into batches of the model."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Union

import numpy as np

from coupalign.inference.exported import OnnxPredictor
from coupalign.inference.prediction import Prediction
from coupalign.inference.predictor import Predictor

Model = Union[Predictor, OnnxPredictor]


@dataclass(frozen=True)
class _Pair:
    image: np.ndarray
    expression: str
    answer: Future[Prediction]


class Batcher:
    """Runs a model on one thread of its own, because MindSpore keeps its graphs per thread.

    Pairs that arrive while the model is busy become the next batch; no pair waits for others to arrive. A single pair
    runs as a batch of one, several are padded to `batch_size`, so that there are two compiled graphs.

    Args:
        load: Makes the predictor; called on the thread.
        batch_size: Pairs of an image and an expression per forward pass.
        on_batch: Called with the number of pairs of every batch.

    Raises: UserError if the model cannot be loaded.
    """

    def __init__(self, load: Callable[[], Model], batch_size: int, on_batch: Callable[[int], None] = lambda _: None):
        self._batch_size, self._on_batch = batch_size, on_batch
        self._waiting: queue.Queue[_Pair | None] = queue.Queue()
        loaded: Future[Model] = Future()
        self._thread = threading.Thread(target=self._run, args=(load, loaded), daemon=True)
        self._thread.start()
        self.predictor = loaded.result()

    async def predict(self, image: np.ndarray, expressions: Sequence[str]) -> list[Prediction]:
        """The predictions for an image (H, W, 3) uint8. Waiting pairs are dropped if the caller is cancelled."""
        pairs = [_Pair(image, expression, Future()) for expression in expressions]
        for pair in pairs:
            self._waiting.put(pair)
        try:
            return await asyncio.gather(*(asyncio.wrap_future(pair.answer) for pair in pairs))
        finally:
            for pair in pairs:
                pair.answer.cancel()

    def close(self) -> None:
        """Ends the thread after its current batch."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self, load: Callable[[], Model], loaded: Future[Model]) -> None:
        try:
            predictor = load()
            blank = np.zeros((64, 64, 3), np.uint8)
            for size in {1, self._batch_size}:  # compiles both graphs
                predictor.predict_batch([blank], ["object"], size)
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(predictor)
        while (first := self._waiting.get()) is not None:
            batch = [first, *self._others()]
            if batch := [pair for pair in batch if pair.answer.set_running_or_notify_cancel()]:
                self._answer(predictor, batch)

    def _others(self) -> Iterator[_Pair]:
        """Further waiting pairs, up to a full batch."""
        with contextlib.suppress(queue.Empty):
            for _ in range(self._batch_size - 1):
                if (pair := self._waiting.get_nowait()) is None:
                    self._waiting.put(None)  # the end comes after this batch
                    return
                yield pair

    def _answer(self, predictor: Model, batch: list[_Pair]) -> None:
        """Answers the pairs. If their batch fails, each runs alone, so that only the one at fault gets the error."""
        self._on_batch(len(batch))
        try:
            images, expressions = [pair.image for pair in batch], [pair.expression for pair in batch]
            found = predictor.predict_batch(images, expressions, 1 if len(batch) == 1 else self._batch_size)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for pair in batch:
                self._answer(predictor, [pair])
            return
        for pair, prediction in zip(batch, found):
            pair.answer.set_result(prediction)
