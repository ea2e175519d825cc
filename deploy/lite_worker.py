"""MindSpore Lite behind a pipe, for demo.py, which runs in another Python. Arguments: MODEL.mindir VOCAB.

It writes {"threshold": …, "max_tokens": …} when the model is loaded. A request on standard input is a line
{"shape": [H, W, 3], "expression": TEXT} followed by the RGB bytes. The answer is a line {"side": S, "nothing_fits": …,
"warnings": …} followed by the probability at the model's size, S x S float32, or a line {"error": TEXT}. It exits when
its input ends.
"""

import json
import os
import signal
import sys

import numpy as np
from lite_predict import LiteModel
from model_inputs import RequestError


def main(model, vocab):
    os.environ.setdefault("GLOG_v", "4")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent closes the pipe
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Lite's own output must not mix with the answers

    def send(head, content=b""):
        answers.write(json.dumps(head).encode() + b"\n" + content)
        answers.flush()

    try:
        lite = LiteModel(model, vocab)
    except RequestError as error:
        send({"error": str(error)})
        return 2
    send({"threshold": lite.threshold, "max_tokens": lite.description["text"]["max_tokens"]})
    for line in iter(sys.stdin.buffer.readline, b""):
        request = json.loads(line.decode())
        shape = request["shape"]
        rgb = np.frombuffer(sys.stdin.buffer.read(shape[0] * shape[1] * 3), np.uint8).reshape(shape)
        try:
            probability, existence, nothing_fits = lite.answer(rgb, request["expression"])
        except RequestError as error:
            send({"error": str(error)})
            continue
        probability = np.ascontiguousarray(probability, np.float32)
        doubts = [lite.nothing_fits_line(existence)] if nothing_fits else []
        lines = doubts + lite.warnings(request["expression"])
        send({"side": len(probability), "nothing_fits": nothing_fits, "warnings": lines}, probability.tobytes())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
