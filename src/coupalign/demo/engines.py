"""What runs the model for the page: MindSpore, or MindSpore Lite with an exported graph."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, find_file
from coupalign.inference.exported import find_vocabulary
from coupalign.inference.prediction import Details
from coupalign.inference.predictor import Predictor


@dataclass(frozen=True)
class Answer:
    """The result of one forward pass."""

    probability: np.ndarray  # (S, S) float32, at the size of the model's input
    details: Details | None  # intermediate results; None from Lite
    seconds: float  # of the forward pass
    warnings: tuple[str, ...] = ()  # that nothing fits, and words that were cut or are not in the vocabulary
    nothing_fits: bool = False  # whether the model's existence output says so


class MindSporeEngine:
    """A checkpoint in this process, on its own thread, because MindSpore keeps its mode and its graphs per thread.

    Engines may be called from several threads; calls run one after another. Raises: UserError, as `Predictor`.
    """

    name = "MindSpore"
    explains = True  # whether answers have details

    def __init__(self, config: Config, checkpoint: str):
        self._thread = ThreadPoolExecutor(1)
        self._size = config.model.image_size
        self.threshold = config.evaluation.threshold
        self._predictor = self._thread.submit(lambda: Predictor(checkpoint, config=config, keep_graph=True)).result()
        self.tokenizer = self._predictor.tokenizer

    def answer(self, rgb: np.ndarray, expression: str) -> Answer:
        """Runs the model. `rgb` is (H, W, 3) uint8."""
        return self._thread.submit(self._answer, rgb, expression).result()

    def close(self) -> None:
        """Ends threads and processes."""
        self._thread.shutdown()

    def _answer(self, rgb: np.ndarray, expression: str) -> Answer:
        start = time.perf_counter()
        # Always with details: one compiled graph serves the mask and the alignment picture.
        found = self._predictor.predict(rgb, expression, details=True, size=(self._size, self._size))
        seconds = time.perf_counter() - start
        return Answer(found.probability, found.details, seconds, found.warnings, found.nothing_fits)


class LiteEngine:
    """An exported graph in MindSpore Lite, in a child process with Lite's own Python (deploy/lite_worker.py).

    A child that has ended is started again by the next request.

    Args:
        config: Names one of the vocabularies to try.
        model: The .mindir of export.py, with its .json in the same directory.
        python: Interpreter with the packages of deploy/requirements-lite.txt.

    Raises: UserError if the interpreter or the vocabulary is missing, or Lite refuses the model.
    """

    name = "MindSpore Lite"
    explains = False

    def __init__(self, config: Config, model: str, python: str):
        vocabulary = find_vocabulary(config, model)
        worker = REPOSITORY / "deploy/lite_worker.py"
        self._command = [str(each) for each in (find_file(python), worker, find_file(model), vocabulary)]
        self._lock = threading.Lock()
        self._child: subprocess.Popen | None = None
        described = self._start()
        self.threshold = described["threshold"]
        self.tokenizer = Tokenizer(vocabulary, described["max_tokens"])

    def answer(self, rgb: np.ndarray, expression: str) -> Answer:
        with self._lock:
            if self._child.poll() is not None:
                self._start()
            start = time.perf_counter()
            request = json.dumps({"shape": rgb.shape, "expression": expression}).encode()
            try:
                self._child.stdin.write(request + b"\n" + np.ascontiguousarray(rgb).tobytes())
                self._child.stdin.flush()
            except BrokenPipeError as error:
                raise UserError("the process of MindSpore Lite has ended") from error
            head = self._read()
            side = head["side"]
            probability = np.frombuffer(self._child.stdout.read(4 * side**2), np.float32).reshape(side, side)
            seconds = time.perf_counter() - start
            return Answer(probability, None, seconds, tuple(head["warnings"]), head["nothing_fits"])

    def close(self) -> None:
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()

    def _start(self) -> dict:
        try:
            self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            reason = f"{self._command[0]} cannot be run ({error.strerror})"
            raise UserError(f"{reason}: install it with scripts/set_up_lite.sh, or pass --lite_python") from error
        return self._read()

    def _read(self) -> dict:
        line = self._child.stdout.readline()
        if not line:
            raise UserError(f"MindSpore Lite ended with status {self._child.wait()}: its output is above")
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer
