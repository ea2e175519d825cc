"""Segment the object that an expression refers to, with MindSpore Lite instead of MindSpore.

This file needs no other file of the repository. It needs the packages of requirements-lite.txt (Lite 2.0: Python 3.7),
and the .mindir and .json that export.py wrote.

    python lite_predict.py --model coupalign.mindir --vocab vocab.txt --image street.jpg --expression "man in red"
    python lite_predict.py --model coupalign.mindir --vocab vocab.txt --requests requests.jsonl --output predictions

A line of requests is {"image": PATH, "expression": TEXT}; paths are relative to the file. For each request the program
writes a .mask.png and an .overlay.png and prints a line of JSON that names them, or {"error": …} if the request fails.
The exit status is then 2.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import io
import json
import os
import re
import string
import sys
import time
import unicodedata
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from tokenizers import BertWordPieceTokenizer
from tokenizers.models import WordPiece

COLOUR = (255, 64, 32)  # RGB
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MOST_PIXELS = 1 << 27
_ORIENTATION = 0x0112  # EXIF tag
_XMP = b"http://ns.adobe.com/xap/1.0/\0"  # begins the segments of a JPEG that hold XMP


class RequestError(Exception):
    """A mistake of the user, in one line: what is wrong, where, and what to do."""


class LiteModel:
    """An exported CoupAlign in MindSpore Lite.

    Args:
        model: .mindir of export.py, with its .json beside it.
        vocab: the vocabulary of the training.
        device: CPU or Ascend.
        device_id: number of the Ascend device.
        threads: CPU threads.

    Raises: RequestError if a file is missing or invalid, or Lite cannot load the model.
    """

    def __init__(self, model, vocab, device="CPU", device_id=0, threads=2):
        self.description = _description(Path(model))
        text = self.description["text"]
        vocabulary = _read(vocab, "vocabulary")
        if hashlib.sha256(vocabulary).hexdigest() != text["vocabulary_sha256"]:
            raise RequestError(f"{vocab} is not the vocabulary of the model's training: pass its vocabulary")
        if device == "CPU" and self.description["device"] != "CPU" and threads > 1:
            raise RequestError(
                f"{model} was exported for {self.description['device']}: pass --threads 1, or export it "
                "with --export_for CPU"
            )
        self._max_tokens = text["max_tokens"]
        self._tokenizer = BertWordPieceTokenizer(WordPiece.read_file(str(vocab)), lowercase=True)
        self._tokenizer.enable_truncation(self._max_tokens)
        self._tokenizer.enable_padding(length=self._max_tokens, pad_id=0, pad_token="[PAD]")
        self._model = _build(Path(model), self.description["versions"], device, device_id, threads)

    def encode(self, expression):
        """Returns token ids and token mask, both (T,) int32. Raises: RequestError if the expression has no word."""
        encoding = self._encoding(expression)
        return np.array(encoding.ids, np.int32), np.array(encoding.attention_mask, np.int32)

    def warnings(self, expression):
        """Returns lines about a truncated part and about words outside the vocabulary."""
        encoding = self._encoding(expression)
        words, tokens = _words(encoding, expression), encoding.tokens
        lines = []
        if encoding.overflowing:
            pieces = self._max_tokens - 2
            lines.append(f"the expression is longer than {pieces} word pieces: it was cut after “{words[-1][0]}”")
        unknown = [
            word.strip(string.punctuation) or word
            for word, positions in words
            if _is_unknown(tokens[positions[0] : positions[-1] + 1])
        ]
        if unknown:
            lines.append(f"words that are not in the vocabulary: {', '.join(dict.fromkeys(unknown))}")
        return lines

    def prepare(self, rgb):
        """Returns an image (H, W, 3) uint8 in the form of the graph's input."""
        return prepare_image(rgb, self.description["image"])

    def outputs(self, image, token_ids, token_mask):
        """Returns all outputs of the graph for one prepared image and expression, without the batch axis."""
        tensors = self._model.get_inputs()
        arrays = (image, token_ids, token_mask)
        for tensor, array in zip(tensors, arrays):
            if list(tensor.shape) != [1, *array.shape]:
                raise RequestError(
                    f"the model's input is {list(tensor.shape)} instead of {[1, *array.shape]}: export it with batch 1"
                )
            tensor.set_data_from_numpy(np.ascontiguousarray(array[None]))
        return [output.get_data_to_numpy()[0] for output in self._model.predict(tensors)]

    def predict(self, rgb, expression):
        """Returns mask (H, W) bool and probability (H, W) float32 for `expression` in `rgb` (H, W, 3) uint8."""
        probability = self.outputs(self.prepare(rgb), *self.encode(expression))[0]
        probability = cv2.resize(probability, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return probability > self.description["threshold"], probability

    def _encoding(self, expression):
        try:
            encoding = self._tokenizer.encode(expression)
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"the expression {ascii(expression)} is not text in UTF-8") from error
        if sum(encoding.attention_mask) <= 2 or not any(map(str.isalnum, expression)):
            raise RequestError(
                'the expression is empty, without a word: say which object is meant, for example "the left cup"'
            )
        return encoding


def load_image(path):
    """Returns the image of a file, upright, RGB (H, W, 3) uint8, by the rules of coupalign.data.images.

    Raises: RequestError if the file is not an image, is damaged, or lacks some of its pixels.
    """
    content = _read(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata and about sizes
            return _pixels(content)
    except RequestError as error:
        raise RequestError(f"image {path} {error}") from error
    except Exception as error:  # Pillow raises nearly anything for damaged files
        raise RequestError(
            f"image {path} is not an image, is damaged or ends early: use a complete JPEG or PNG file"
        ) from error


def _pixels(content):
    picture = Image.open(io.BytesIO(content), formats=FORMATS)
    if picture.width * picture.height > MOST_PIXELS:
        raise RequestError(f"has more than {MOST_PIXELS:,} pixels: make it smaller")
    try:
        picture.load()
    except Exception:
        if picture.format not in ("JPEG", "MPO"):
            raise
        # A JPEG without an end marker is complete if what follows its data makes no difference.
        ends = [content + tail + b"\xff\xd9" for tail in (b"", b"\x00" * 4096, b"\xaa" * 4096)]
        first, *others = (np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in ends)
        if not all(np.array_equal(first, other) for other in others):
            raise RequestError("ends early, and some of its pixels are missing: copy or download it again") from None
        picture = Image.open(io.BytesIO(ends[0]))
        picture.load()
    picture = _upright(picture)
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F", "LAB", "HSV"):
        raise RequestError(f"has the pixel type {picture.mode!r} of Pillow: convert it to 8 bits per channel, RGB")
    return np.asarray(picture.convert("RGB"))


def _upright(picture):
    """Applies the orientation of EXIF, or of XMP if EXIF has none; Pillow 9 ignores XMP in JPEG and WebP."""
    if picture.format == "TIFF":
        return picture  # Pillow turns TIFFs when it loads them, but Pillow 9 keeps the tag
    exif = picture.getexif()
    if _ORIENTATION not in exif:
        packets = [picture.info.get("XML:com.adobe.xmp"), picture.info.get("xmp")]
        packets += [
            data for marker, data in getattr(picture, "applist", []) if marker == "APP1" and data.startswith(_XMP)
        ]
        packet = next(filter(None, packets), b"")
        packet = packet.encode("utf-8", "replace") if isinstance(packet, str) else packet
        found = re.search(rb'tiff:Orientation(="|>)([0-9])', packet)
        if found:
            exif[_ORIENTATION] = int(found.group(2))
    upright = ImageOps.exif_transpose(picture)
    upright.format = picture.format
    return upright


def prepare_image(rgb, description):
    """Returns an image (H, W, 3) uint8 prepared as in training; `description` is that of the graph's input ``image``."""
    size = description["size"]
    square = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_LINEAR)
    if not description["normalised"]:
        return square
    mean, std = (np.array(description[key], np.float32) for key in ("mean", "std"))
    return ((square.astype(np.float32) - mean) / std).transpose(2, 0, 1)


def overlay(rgb, mask):
    """Returns `rgb` with the pixels of `mask` tinted and its inner outline drawn."""
    drawn = rgb.copy()
    drawn[mask] = (rgb[mask] * 0.5 + np.array(COLOUR) * 0.5).round().astype(np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    drawn[mask & (inner == 0)] = COLOUR
    return drawn


def file_stem(image, expression):
    """Returns the start of a prediction's file names; it differs for each image path and expression, as in predict.py."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(str(image))) + b"\0" + os.fsencode(expression)).hexdigest()
    return f"{_slug(Path(image).stem)}-{_slug(expression)}-{digest[:10]}"


def _slug(text):
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower())
    return "-".join(words).encode("utf-8", "ignore")[:60].decode("utf-8", "ignore").strip("-") or "x"


def requests(args):
    """Returns the pairs of image path and expression that the command line requests."""
    if not args.requests:
        images = []
        for path in (Path(each).expanduser() for each in args.image):
            inside = path.iterdir() if path.is_dir() else ()
            found = sorted(each for each in inside if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
            if path.is_dir() and not found:
                raise RequestError(f"directory {path} has no images ({' '.join(IMAGE_SUFFIXES)}): check its path")
            images += found or [path]
        return [(path, expression) for path in images for expression in args.expression]
    try:
        lines = _read(args.requests, "requests").decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"requests {args.requests} are not text in UTF-8: save them as UTF-8") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                request = json.loads(line)
                image, expression = request["image"], request["expression"]
                if not (isinstance(image, str) and isinstance(expression, str)):
                    raise TypeError
                (image + expression).encode()  # refuses parts of characters, such as "\\ud800"
                pairs.append((Path(args.requests).parent / image, expression))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise RequestError(
                    f'requests {args.requests}, line {number}: expected {{"image": PATH, "expression": TEXT}}'
                ) from error
    return pairs


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="FILE", help="exported graph (.mindir)")
    parser.add_argument("--vocab", required=True, metavar="FILE", help="vocabulary of the training")
    parser.add_argument("--image", action="append", metavar="PATH", help="image or directory; may be repeated")
    parser.add_argument("--expression", action="append", metavar="TEXT", help="may be repeated")
    parser.add_argument("--requests", metavar="FILE", help="JSON Lines, instead of --image and --expression")
    parser.add_argument("--output", default="predictions", metavar="DIR", help="default: predictions")
    parser.add_argument("--device", choices=("CPU", "Ascend"), default="CPU")
    parser.add_argument("--device_id", type=int, default=0, help="number of the Ascend device (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    args = parser.parse_args(argv)
    if bool(args.requests) == bool(args.image and args.expression):
        parser.error("pass either --image and --expression, or --requests")
    os.environ.setdefault("GLOG_v", "4")  # otherwise the error line is lost in Lite's log
    status = 0
    try:
        pairs = requests(args)
        start = time.perf_counter()
        model = LiteModel(args.model, args.vocab, args.device, args.device_id, args.threads)
        print(f"loaded in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        output = Path(args.output).expanduser()
        output.mkdir(parents=True, exist_ok=True)
        for path, expression in pairs:
            record = {"image": str(path), "expression": expression}
            try:
                record.update(_predict_file(model, path, expression, output / file_stem(path, expression)))
            except RequestError as error:
                record["error"] = str(error)
                status = 2
            for warning in record.get("warnings", ()):
                print(f"warning: {ascii(expression)}: {warning}", file=sys.stderr)
            _print_json(record)
    except (RequestError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return status


def _predict_file(model, path, expression, stem):
    rgb = load_image(path)
    lines = model.warnings(expression)
    start = time.perf_counter()
    mask, probability = model.predict(rgb, expression)
    record = {
        "mask": f"{stem}.mask.png",
        "overlay": f"{stem}.overlay.png",
        "area": round(float(mask.mean()), 6),
        "max_probability": round(float(probability.max()), 6),
        "milliseconds": round(1000 * (time.perf_counter() - start), 1),
        "warnings": lines,
    }
    for name, pixels in (("mask", mask.astype(np.uint8) * 255), ("overlay", overlay(rgb, mask)[..., ::-1])):
        Path(record[name]).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return record


def _print_json(record):
    """Prints a line of JSON. Characters that stdout cannot encode are escaped."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        line = json.dumps(record)
    print(line, flush=True)


def _build(path, versions, device, device_id, threads):
    import mindspore_lite

    context = mindspore_lite.Context()
    context.target = [device.lower()]
    context.cpu.thread_num = threads
    if device == "Ascend":
        context.ascend.device_id = device_id
    model = mindspore_lite.Model()
    try:
        model.build_from_file(str(path), mindspore_lite.ModelType.MINDIR, context)
    except RuntimeError as error:
        reason = load_failure(versions["mindspore"], mindspore_lite.__version__, device)
        raise RequestError(f"MindSpore Lite cannot load {path} on {device}: {reason}") from error
    return model


def load_failure(exporter, lite, device):
    """Returns why Lite could not load a model, because its own message is the same for all reasons.

    Args:
        exporter: version of the MindSpore that exported the model.
        lite: version of MindSpore Lite.
    """
    if device == "Ascend":
        try:
            ctypes.CDLL("libgraph.so")
        except OSError as error:
            return f"CANN is not available ({error}): install it and source its set_env.sh"
    if exporter.split(".")[:2] != lite.split(".")[:2]:
        return (
            f"MindSpore {exporter} exported it, and MindSpore Lite {lite} reads files of its own version only: "
            f"run export.py with MindSpore {lite}"
        )
    return "the file is damaged, or not a MindIR: copy or export it again"


def _description(model):
    path = model.with_suffix(".json")
    _read(model, "model")
    try:
        description = json.loads(_read(path, "description of the model").decode("utf-8"))
        description["versions"]["mindspore"].split(".")
        return {key: description[key] for key in ("device", "image", "text", "threshold", "versions")}
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} does not describe a model: export the model again") from error


def _words(encoding, expression):
    """Returns the words that were not cut, with the positions of their tokens, as coupalign.data.tokenizer does."""
    words = []
    begin = end = 0
    for position, (span, special) in enumerate(zip(encoding.offsets, encoding.special_tokens_mask)):
        if not special:
            continues = bool(words) and not any(map(str.isspace, expression[end : span[0]]))
            begin, end = begin if continues else span[0], span[1]
            positions = words.pop()[1] if continues else []
            words.append((expression[begin:end], [*positions, position]))
    return words


def _is_unknown(pieces):
    """Whether a word has [UNK], or two successive pieces of one letter each, as m ##u ##g."""
    letters = [piece[2:] if piece.startswith("##") else piece for piece in pieces]
    spelled = (
        len(letters[i]) == len(letters[i + 1]) == 1 and pieces[i + 1].startswith("##") for i in range(len(pieces) - 1)
    )
    return "[UNK]" in pieces or any(spelled)


def _read(path, what):
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{what} {path} cannot be read ({getattr(error, 'strerror', error)}): check its path"
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
