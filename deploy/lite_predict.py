"""Segment the object that an expression refers to, with MindSpore Lite. Needs no other file of the repository.

    python lite_predict.py --model coupalign.mindir --vocab vocab.txt --image street.jpg --expression "man in red"
    python lite_predict.py --model coupalign.mindir --vocab vocab.txt --requests requests.jsonl --output predictions

A line of requests is {"image": PATH, "expression": TEXT}; paths are relative to the file. For each request the program
writes a .mask.png and an .overlay.png and prints a line of JSON that names them, or {"error": …} if the request fails.
The exit status is then 2. A model with an existence output adds the probability that something fits; if it is too low,
the mask is empty. export.py writes the .mindir and the .json beside it.
"""

import argparse
import ctypes
import hashlib
import io
import json
import os
import re
import string
import sys
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
_XMP = b"http://ns.adobe.com/xap/1.0/\0"  # begins the segments of a JPEG that hold XMP
# Word pieces of an unknown word: [UNK], or two successive pieces of one letter each, as m ##u ##g.
_UNKNOWN = re.compile(r"\[UNK\]| (##)?[^ ] ##[^ ]( |$)")


class RequestError(Exception):
    """A mistake of the user, in one line."""


class LiteModel:
    """A .mindir of export.py, with the .json beside it, and the vocabulary of its training. Raises: RequestError."""

    def __init__(self, model, vocab, device="CPU", device_id=0, threads=2):
        self.description = _description(model)
        text = self.description["text"]
        if hashlib.sha256(_read(vocab, "vocabulary")).hexdigest() != text["vocabulary_sha256"]:
            raise RequestError(f"{vocab} is not the vocabulary of the model's training: pass its vocabulary")
        if device == "CPU" and self.description["device"] != "CPU" and threads > 1:
            raise RequestError(
                f"{model} was not exported for CPU: pass --threads 1, or export it with --export_for CPU"
            )
        self._max_tokens = text["max_tokens"]
        self._tokenizer = BertWordPieceTokenizer(WordPiece.read_file(str(vocab)), lowercase=True)
        self._tokenizer.enable_truncation(self._max_tokens)
        self._tokenizer.enable_padding(length=self._max_tokens, pad_id=0, pad_token="[PAD]")
        self._model = _build(model, self.description["versions"], device, device_id, threads)

    def encode(self, expression):
        """Returns token ids and token mask, both (T,) int32. Raises: RequestError if the expression has no word."""
        encoding = self._encoding(expression)
        return np.array(encoding.ids, np.int32), np.array(encoding.attention_mask, np.int32)

    def warnings(self, expression):
        """Returns lines about a truncated part and about words outside the vocabulary."""
        encoding = self._encoding(expression)
        words, begin, end = [], 0, 0  # words that were not cut, with their pieces, as in coupalign.data.tokenizer
        for piece, span, special in zip(encoding.tokens, encoding.offsets, encoding.special_tokens_mask):
            if not special:
                continues = words and not any(map(str.isspace, expression[end : span[0]]))
                begin, end = begin if continues else span[0], span[1]
                pieces = words.pop()[1] if continues else ""
                words.append((expression[begin:end], f"{pieces} {piece}"))
        lines = []
        if encoding.overflowing:
            most, last = self._max_tokens - 2, words[-1][0]
            lines.append(f"the expression is longer than {most} word pieces: it was cut after “{last}”")
        unknown = [word.strip(string.punctuation) or word for word, pieces in words if _UNKNOWN.search(pieces)]
        if unknown:
            lines.append(f"words that are not in the vocabulary: {', '.join(dict.fromkeys(unknown))}")
        return lines

    def prepare(self, rgb):
        """Returns an image (H, W, 3) uint8 in the form of the graph's input, prepared as in training."""
        image = self.description["image"]
        square = cv2.resize(rgb, (image["size"], image["size"]), interpolation=cv2.INTER_LINEAR)
        if not image["normalised"]:
            return square
        mean, std = (np.array(image[key], np.float32) for key in ("mean", "std"))
        return ((square.astype(np.float32) - mean) / std).transpose(2, 0, 1)

    def outputs(self, image, token_ids, token_mask):
        """Returns all outputs of the graph for one prepared image and expression, without the batch axis."""
        tensors = self._model.get_inputs()
        for tensor, array in zip(tensors, (image, token_ids, token_mask)):
            if list(tensor.shape) != [1, *array.shape]:
                raise RequestError(f"the model's input is {tensor.shape}, not {array.shape}: export it with batch 1")
            tensor.set_data_from_numpy(np.ascontiguousarray(array[None]))
        return [output.get_data_to_numpy()[0] for output in self._model.predict(tensors)]

    def answer(self, rgb, expression):
        """Returns what the model finds in an image (H, W, 3) uint8.

        These are the probability map (S, S) float32, the probability that something fits the expression, or None for a
        model without this output, and whether that is below the threshold of the export.
        """
        outputs = self.outputs(self.prepare(rgb), *self.encode(expression))
        threshold = self.description["existence_threshold"]
        if threshold is None:
            return outputs[0], None, False
        existence = float(outputs[1])
        return outputs[0], existence, existence < threshold

    def _encoding(self, expression):
        try:
            encoding = self._tokenizer.encode(expression)
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"the expression {ascii(expression)} is not text in UTF-8") from error
        if sum(encoding.attention_mask) <= 2 or not any(map(str.isalnum, expression)):
            raise RequestError("the expression is empty, without a word: say which object is meant")
        return encoding


def load_image(path):
    """Returns an upright image, RGB (H, W, 3) uint8, by the rules of coupalign.data.images. Raises: RequestError."""
    content = _read(path, "image")
    try:
        return _pixels(content)
    except RequestError as error:
        raise RequestError(f"image {path} {error}") from error
    except Exception as error:  # Pillow raises nearly anything for damaged files
        raise RequestError(f"image {path} is not an image, is damaged or ends early: use a complete one") from error


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
        ends = (b"\xff\xd9", b"\x00" * 4096 + b"\xff\xd9", b"\xaa" * 4096 + b"\xff\xd9")
        pictures = [Image.open(io.BytesIO(content + end)) for end in ends]
        if len({picture.tobytes() for picture in pictures}) > 1:
            raise RequestError("ends early, and some of its pixels are missing: copy or download it again") from None
        picture = pictures[0]
    sixteen_bits = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")
    if picture.format != "TIFF":  # Pillow turns TIFFs when it loads them, but Pillow 9 keeps the tag
        exif = picture.getexif()
        if 0x0112 not in exif:  # orientation; Pillow 9 ignores XMP in JPEG and WebP
            packets = [picture.info.get(name) for name in ("XML:com.adobe.xmp", "xmp")]
            packets += [data for _, data in getattr(picture, "applist", []) if data.startswith(_XMP)]
            found = re.search(r'tiff:Orientation(="|>)([0-9])', str(next(filter(None, packets), "")))
            if found:
                exif[0x0112] = int(found.group(2))
        picture = ImageOps.exif_transpose(picture)
    if sixteen_bits:
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F", "LAB", "HSV"):
        raise RequestError(f"has the pixel type {picture.mode!r} of Pillow: convert it to 8 bits per channel, RGB")
    return np.asarray(picture.convert("RGB"))


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
    slugs = []
    for text in (Path(image).stem, expression):
        words = "-".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower()))
        slugs.append(words.encode("utf-8", "ignore")[:60].decode("utf-8", "ignore").strip("-") or "x")
    return "-".join([*slugs, digest[:10]])


def _find_images(path):
    path = Path(path).expanduser()
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())


def read_requests(file):
    """Returns the pairs of image path and expression in a file of JSON Lines. Raises: RequestError."""
    try:
        lines = _read(file, "requests").decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"requests {file} are not text in UTF-8: save them as UTF-8") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                request = json.loads(line)
                (request["image"] + request["expression"]).encode()  # refuses parts of characters, such as "\\ud800"
                pairs.append((Path(file).parent / request["image"], request["expression"]))
        except (AttributeError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RequestError(f'{file} line {number}: expected {{"image": PATH, "expression": TEXT}}') from error
    return pairs


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="FILE", help="exported graph (.mindir)")
    parser.add_argument("--vocab", required=True, metavar="FILE", help="vocabulary of the training")
    parser.add_argument("--image", action="append", default=[], metavar="PATH", help="image or directory; repeatable")
    parser.add_argument("--expression", action="append", default=[], metavar="TEXT", help="repeatable")
    parser.add_argument("--requests", metavar="FILE", help="JSON Lines, instead of --image and --expression")
    parser.add_argument("--output", default="predictions", metavar="DIR", help="default: predictions")
    parser.add_argument("--device", choices=("CPU", "Ascend"), default="CPU")
    parser.add_argument("--device_id", type=int, default=0, help="number of the Ascend device (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    args = parser.parse_args(argv)
    if bool(args.requests) == bool(args.image and args.expression):
        parser.error("pass either --image and --expression, or --requests")
    warnings.simplefilter("ignore")  # Pillow's, about metadata and about sizes
    os.environ.setdefault("GLOG_v", "4")  # otherwise the error line is lost in Lite's log
    status = 0
    try:
        pairs = read_requests(args.requests) if args.requests else []
        pairs += [(path, text) for each in args.image for path in _find_images(each) for text in args.expression]
        if not pairs:
            raise RequestError(f"{args.requests or args.image[0]} has no images: check its path")
        model = LiteModel(args.model, args.vocab, args.device, args.device_id, args.threads)
        output = Path(args.output).expanduser()
        output.mkdir(parents=True, exist_ok=True)
        for path, expression in pairs:
            try:
                found = _predict_file(model, path, expression, output / file_stem(path, expression))
            except RequestError as error:
                found, status = {"error": str(error)}, 2
            for warning in found.get("warnings", ()):
                print(f"warning: {ascii(expression)}: {warning}", file=sys.stderr)
            if found.get("nothing_fits"):
                sure = f"probability {found['existence']:.2f} that something does"
                line = f"nothing in this image fits the expression ({sure})"
                print(f"warning: {ascii(str(path))}, {ascii(expression)}: {line}", file=sys.stderr)
            print(json.dumps({"image": str(path), "expression": expression, **found}), flush=True)
    except (RequestError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return status


def _predict_file(model, path, expression, stem):
    rgb = load_image(path)
    probability, existence, nothing_fits = model.answer(rgb, expression)
    probability = cv2.resize(probability, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    mask = (probability > model.description["threshold"]) & (not nothing_fits)
    files = {"mask": f"{stem}.mask.png", "overlay": f"{stem}.overlay.png"}
    Image.fromarray(mask.astype(np.uint8) * 255).save(files["mask"])
    Image.fromarray(overlay(rgb, mask)).save(files["overlay"])
    figures = {"area": round(float(mask.mean()), 6), "score": round(float(probability.max()), 6)}
    if existence is not None:
        figures.update(existence=round(existence, 6), nothing_fits=nothing_fits)
    return {**files, **figures, "warnings": model.warnings(expression)}


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
    """Returns why MindSpore Lite of version `lite` cannot load a model of MindSpore `exporter`; Lite does not say it."""
    if device == "Ascend":
        try:
            ctypes.CDLL("libgraph.so")
        except OSError as error:
            return f"CANN is not available ({error}): install it and source its set_env.sh"
    if exporter.split(".")[:2] != lite.split(".")[:2]:
        return f"Lite {lite} cannot read files of MindSpore {exporter}: run export.py with MindSpore {lite}"
    return "the file is damaged, or not a MindIR: copy or export it again"


def _description(model):
    path = Path(model).with_suffix(".json")
    _read(model, "model")
    try:
        description = json.loads(_read(path, "description of the model").decode("utf-8"))
        description["versions"]["mindspore"].split(".")
        description.setdefault("existence_threshold", None)  # of a model without an existence output
        return {
            key: description[key] for key in ("device", "existence_threshold", "image", "text", "threshold", "versions")
        }
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} does not describe a model: export the model again") from error


def _read(path, what):
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise RequestError(f"{what} {path} cannot be read ({getattr(error, 'strerror', error)}): check it") from error


if __name__ == "__main__":
    raise SystemExit(main())
