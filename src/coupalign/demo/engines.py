"""What answers the page: the model in MindSpore, or its exported graph in MindSpore Lite."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np

from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, find_file
from coupalign.inference.predictor import Predictor, Proposals


@dataclass(frozen=True)
class Answer:
    """One forward pass.

    Attributes:
        probability: (S, S) float32, at the size of the model's input.
        proposals: None from Lite.
        seconds: of the pass alone.
    """

    probability: np.ndarray
    proposals: Proposals | None
    seconds: float


class Engine(Protocol):
    """A compiled model. Callers on several threads wait for each other.

    Attributes:
        name: for users.
        tokenizer: the model's.
        threshold: what it is used with.
        explains: whether answers have proposals.
    """

    name: str
    tokenizer: Tokenizer
    threshold: float
    explains: bool

    def answer(self, rgb: np.ndarray, expression: str) -> Answer:
        """`rgb` (H, W, 3) uint8."""

    def close(self) -> None:
        """Ends what it started."""


class MindSporeEngine:
    """A checkpoint in this process, on a thread of its own, since MindSpore keeps its mode and its graphs by thread.

    Raises: UserError as Predictor does.
    """

    name = "MindSpore"
    explains = True

    def __init__(self, config: Config, checkpoint: str):
        self._thread = ThreadPoolExecutor(1)
        self._size = config.model.image_size
        self.threshold = config.evaluation.threshold
        self._predictor = self._thread.submit(self._load, config, checkpoint).result()
        self.tokenizer = self._predictor.tokenizer

    def answer(self, rgb: np.ndarray, expression: str) -> Answer:
        return self._thread.submit(self._answer, rgb, expression).result()

    def close(self) -> None:
        self._thread.shutdown()

    def _load(self, config: Config, checkpoint: str) -> Predictor:
        from coupalign.context import set_up

        set_up(config)
        return Predictor(checkpoint, config=config)

    def _answer(self, rgb: np.ndarray, expression: str) -> Answer:
        start = time.perf_counter()
        # One graph for the mask and for what it was made of.
        prediction = self._predictor.predict(rgb, expression, proposals=True, size=(self._size, self._size))
        return Answer(prediction.probability, prediction.proposals, time.perf_counter() - start)


class LiteEngine:
    """An exported graph in MindSpore Lite, which lives in another Python: a child process that deploy/lite_worker.py
    describes. A child that has ended is started anew by the next request.

    Args:
        config: for its vocabulary.
        model: .mindir of export.py, with its .json beside it.
        python: interpreter that has what deploy/requirements-lite.txt lists.

    Raises: UserError where the interpreter is missing or Lite refuses the model.
    """

    name = "MindSpore Lite"
    explains = False

    def __init__(self, config: Config, model: str, python: str):
        vocabulary = find_file(config.data.vocab_file)
        self._command = [
            str(find_file(python)),
            str(REPOSITORY / "deploy/lite_worker.py"),
            str(find_file(model)),
            str(vocabulary),
        ]
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
            try:
                send(self._child.stdin, {"shape": rgb.shape, "expression": expression}, rgb)
            except BrokenPipeError as error:
                raise UserError("the process of MindSpore Lite has ended") from error
            said = self._said()
            pixels = self._child.stdout.read(4 * said["side"] ** 2)
            probability = np.frombuffer(pixels, np.float32).reshape(said["side"], said["side"])
            return Answer(probability, None, time.perf_counter() - start)

    def close(self) -> None:
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()

    def _start(self) -> dict:
        try:
            self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise UserError(
                f"{self._command[0]} cannot be run ({error.strerror}): scripts/set_up_lite.sh makes "
                "it, or name the Python that has MindSpore Lite with --lite_python"
            ) from error
        return self._said()

    def _said(self) -> dict:
        line = self._child.stdout.readline()
        if not line:
            raise UserError(f"MindSpore Lite has ended with status {self._child.wait()}: what it wrote stands above")
        said = json.loads(line)
        if "error" in said:
            raise UserError(said["error"])
        return said


def send(stream: IO[bytes], head: dict, pixels: np.ndarray) -> None:
    """A line of JSON and the bytes of an array."""
    stream.write(json.dumps(head).encode() + b"\n" + np.ascontiguousarray(pixels).tobytes())
    stream.flush()
