"""MindSpore Lite behind a pipe, for demo.py, whose Python cannot have it. Arguments: MODEL.mindir VOCAB.

Says {"threshold": …, "max_tokens": …} when the model is loaded. A request on standard input is a line
{"shape": [H, W, 3], "expression": TEXT} and as many bytes of RGB; its answer {"side": S} and S x S float32, the
probability at the model's size, or {"error": TEXT}. It ends with its input.
"""

import json
import os
import signal
import sys

import numpy as np
from lite_predict import LiteModel, RequestError


def main(model, vocab):
    os.environ.setdefault("GLOG_v", "4")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started it, who then closes the pipe
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Lite prints is no answer

    def say(head, more=b""):
        answers.write(json.dumps(head).encode() + b"\n" + more)
        answers.flush()

    try:
        lite = LiteModel(model, vocab)
    except RequestError as error:
        say({"error": str(error)})
        return 2
    say({"threshold": lite.description["threshold"], "max_tokens": lite.description["text"]["max_tokens"]})
    for line in iter(sys.stdin.buffer.readline, b""):
        request = json.loads(line.decode())
        shape = request["shape"]
        rgb = np.frombuffer(sys.stdin.buffer.read(shape[0] * shape[1] * 3), np.uint8).reshape(shape)
        try:
            probability = lite.outputs(lite.prepare(rgb), *lite.encode(request["expression"]))[0]
        except RequestError as error:
            say({"error": str(error)})
            continue
        probability = np.ascontiguousarray(probability, np.float32)
        say({"side": len(probability)}, probability.tobytes())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
