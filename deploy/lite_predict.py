"""Segment what expressions name in images, with MindSpore Lite and no MindSpore.

This file stands alone: it needs mindspore_lite, numpy, opencv-python-headless and tokenizers (Lite 2.0: Python 3.7),
and of the export the .mindir with the .json beside it.

    python lite_predict.py --model coupalign.mindir --vocab vocab.txt --image street.jpg --expression "man in red"
    python lite_predict.py --model coupalign.mindir --vocab vocab.txt --requests requests.jsonl --output predictions

A line of requests is {"image": PATH, "expression": TEXT}, with paths relative to the file. Each request gets
<number>-<image>.mask.png and .overlay.png and a line of JSON, a request that fails the line {"error": …}; the exit
status is 2 then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from tokenizers import BertWordPieceTokenizer
from tokenizers.models import WordPiece

COLOUR = (255, 64, 32)  # RGB


class RequestError(Exception):
    """One line: what is wrong, where, and the mend."""


class LiteModel:
    """An exported CoupAlign in MindSpore Lite.

    Args:
        model: .mindir of export.py, with its .json beside it.
        vocab: the vocabulary of the training, vocab.txt of bert-base-uncased.
        device, device_id, threads: CPU or Ascend; which Ascend; of the CPU.

    Raises: RequestError where a file is missing or none, or Lite refuses the model.
    """

    def __init__(self, model, vocab, device="CPU", device_id=0, threads=2):
        self.description = _description(Path(model))
        text = self.description["text"]
        vocabulary = _read(vocab, "vocabulary")
        if hashlib.sha256(vocabulary).hexdigest() != text["vocabulary_sha256"]:
            raise RequestError(f"{vocab} is not the vocabulary that the model was trained with: give its vocab.txt")
        if device == "CPU" and self.description["device"] != "CPU" and threads > 1:
            raise RequestError(
                f"{model} was exported for {self.description['device']}: give --threads 1, or export it "
                "with --export_for CPU"
            )
        self._tokenizer = BertWordPieceTokenizer(WordPiece.read_file(str(vocab)), lowercase=True)
        self._tokenizer.enable_truncation(text["max_tokens"])
        self._tokenizer.enable_padding(length=text["max_tokens"], pad_id=0, pad_token="[PAD]")
        self._model = _build(str(model), device, device_id, threads)

    def encode(self, expression):
        """Word pieces' ids and mask, both (T,) int32. Raises: RequestError for an expression without a word."""
        encoding = self._tokenizer.encode(expression)
        if sum(encoding.attention_mask) <= 2:
            raise RequestError('the expression is empty: say which object is meant, for example "the left cup"')
        return np.array(encoding.ids, np.int32), np.array(encoding.attention_mask, np.int32)

    def prepare(self, rgb):
        """An image (H, W, 3) uint8 as the graph takes it."""
        return prepare_image(rgb, self.description["image"])

    def outputs(self, image, token_ids, token_mask):
        """All outputs of the graph for one prepared image and expression, without the batch axis."""
        tensors = self._model.get_inputs()
        arrays = (image, token_ids, token_mask)
        for tensor, array in zip(tensors, arrays):
            if list(tensor.shape) != [1, *array.shape]:
                raise RequestError(
                    f"the model takes {list(tensor.shape)} instead of {[1, *array.shape]}: export it with batch 1"
                )
            tensor.set_data_from_numpy(np.ascontiguousarray(array[None]))
        return [output.get_data_to_numpy()[0] for output in self._model.predict(tensors)]

    def predict(self, rgb, expression):
        """The mask (H, W) bool and probability (H, W) float32 of what `expression` names in `rgb` (H, W, 3) uint8."""
        probability = self.outputs(self.prepare(rgb), *self.encode(expression))[0]
        probability = cv2.resize(probability, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return probability > self.description["threshold"], probability


def load_image(path):
    """The image of a file, upright, RGB (H, W, 3) uint8. Raises: RequestError for what is none or ends early."""
    content = _read(path, "image")
    # Decoders fill up a file that ends early with grey.
    for magic, start, end in ((b"\xff\xd8", b"\xff\xda", b"\xff\xd9"), (b"\x89PNG", b"IDAT", b"IEND")):
        if content.startswith(magic) and content.rfind(end) <= content.rfind(start):
            raise RequestError(f"image {path} ends early: copy or fetch it again")
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:
        bgr = None
    if bgr is None:
        raise RequestError(f"image {path} is no image, or a damaged one: use a JPEG or PNG file")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def prepare_image(rgb, description):
    """An image (H, W, 3) uint8 as training prepares it, by what export.py says of the graph's input ``image``."""
    size = description["size"]
    square = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_LINEAR)
    if not description["normalised"]:
        return square
    mean, std = (np.array(description[key], np.float32) for key in ("mean", "std"))
    return ((square.astype(np.float32) - mean) / std).transpose(2, 0, 1)


def overlay(rgb, mask):
    """`rgb` with the pixels of `mask` tinted, and outlined within."""
    drawn = rgb.copy()
    drawn[mask] = (rgb[mask] * 0.5 + np.array(COLOUR) * 0.5).round().astype(np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    drawn[mask & (inner == 0)] = COLOUR
    return drawn


def requests(args):
    """Pairs of image path and expression that the command line asks for."""
    if args.requests:
        lines = _read(args.requests, "requests").decode("utf-8").splitlines()
        asked = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    request = json.loads(line)
                    asked.append((Path(args.requests).parent / request["image"], str(request["expression"])))
                except (ValueError, KeyError, TypeError) as error:
                    raise RequestError(
                        f'{args.requests}, line {number}: give {{"image": PATH, "expression": TEXT}}'
                    ) from error
        return asked
    image = Path(args.image)
    images = sorted(path for path in image.iterdir() if path.is_file()) if image.is_dir() else [image]
    return [(path, expression) for path in images for expression in args.expression]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="FILE", help="exported graph (.mindir)")
    parser.add_argument("--vocab", required=True, metavar="FILE", help="vocab.txt of bert-base-uncased")
    parser.add_argument("--image", metavar="PATH", help="image, or directory of images")
    parser.add_argument("--expression", action="append", metavar="TEXT", help="may be given several times")
    parser.add_argument("--requests", metavar="FILE", help="JSON Lines, in place of --image and --expression")
    parser.add_argument("--output", default="predictions", metavar="DIR", help="default: predictions")
    parser.add_argument("--device", choices=("CPU", "Ascend"), default="CPU")
    parser.add_argument("--device_id", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    args = parser.parse_args(argv)
    if bool(args.requests) == bool(args.image and args.expression):
        parser.error("give either --image and --expression, or --requests")
    os.environ.setdefault("GLOG_v", "4")  # Lite's log would bury the one line about what is wrong
    status = 0
    try:
        asked = requests(args)
        start = time.perf_counter()
        model = LiteModel(args.model, args.vocab, args.device, args.device_id, args.threads)
        print(f"loaded in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        Path(args.output).mkdir(parents=True, exist_ok=True)
        for number, (path, expression) in enumerate(asked, 1):
            line = {"image": str(path), "expression": expression}
            try:
                line.update(_answer(model, path, expression, Path(args.output) / f"{number}-{path.stem}"))
            except RequestError as error:
                line["error"] = str(error)
                status = 2
            print(json.dumps(line, ensure_ascii=False), flush=True)
    except (RequestError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return status


def _answer(model, path, expression, stem):
    rgb = load_image(path)
    start = time.perf_counter()
    mask, probability = model.predict(rgb, expression)
    answer = {
        "mask": f"{stem}.mask.png",
        "overlay": f"{stem}.overlay.png",
        "area": round(float(mask.mean()), 6),
        "max_probability": round(float(probability.max()), 6),
        "milliseconds": round(1000 * (time.perf_counter() - start), 1),
    }
    cv2.imwrite(answer["mask"], mask.astype(np.uint8) * 255)
    cv2.imwrite(answer["overlay"], cv2.cvtColor(overlay(rgb, mask), cv2.COLOR_RGB2BGR))
    return answer


def _build(path, device, device_id, threads):
    import mindspore_lite

    context = mindspore_lite.Context()
    context.target = [device.lower()]
    context.cpu.thread_num = threads
    if device == "Ascend":
        context.ascend.device_id = device_id
    model = mindspore_lite.Model()
    try:
        model.build_from_file(path, mindspore_lite.ModelType.MINDIR, context)
    except RuntimeError as error:
        raise RequestError(
            f"MindSpore Lite cannot load {path} on {device}: export it with the MindSpore of Lite's version"
        ) from error
    return model


def _description(model):
    path = model.with_suffix(".json")
    _read(model, "model")
    try:
        description = json.loads(_read(path, "description of the model").decode("utf-8"))
        return {key: description[key] for key in ("device", "image", "text", "threshold")}
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} does not describe a model: export it again") from error


def _read(path, what):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{what} {path} cannot be read ({error.strerror}): check its path") from error


if __name__ == "__main__":
    raise SystemExit(main())
