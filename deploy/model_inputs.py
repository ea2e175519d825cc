"""Inputs of an exported model, prepared as in training. For programs that run where the package is not installed."""

import hashlib
import io
import json
import re
import string
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from tokenizers import BertWordPieceTokenizer
from tokenizers.models import WordPiece

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
MOST_PIXELS = 1 << 27
_XMP = b"http://ns.adobe.com/xap/1.0/\0"  # begins the segments of a JPEG that hold XMP
# Word pieces of an unknown word: [UNK], or two successive pieces of one letter each, as m ##u ##g.
_UNKNOWN = re.compile(r"\[UNK\]| (##)?[^ ] ##[^ ]( |$)")


class RequestError(Exception):
    """A mistake of the user, in one line."""


class ModelInputs:
    """Turns images and expressions into inputs, by the .json that export.py wrote beside `model`, and the vocabulary.

    Programs add ``outputs(image, token_ids, token_mask)``, which returns all outputs of the graph for a batch.

    Attributes:
        description: Content of the .json.
        batch_size: Pairs that the graph takes at a time, 1 if it takes any number.
        threshold: Probability above which a pixel is in the mask.
        identity: A text that differs for models whose masks may differ.

    Raises: RequestError if a file is missing or does not fit.
    """

    def __init__(self, model, vocab):
        identity = hashlib.sha256(read(model, "model"))
        self.description = read_description(model)
        text = self.description["text"]
        if hashlib.sha256(read(vocab, "vocabulary")).hexdigest() != text["vocabulary_sha256"]:
            raise RequestError(f"{vocab} is not the vocabulary of the model's training: pass its vocabulary")
        self.threshold = self.description["threshold"]
        batch = self.description["inputs"][0]["shape"][0]
        self.batch_size = batch if isinstance(batch, int) else 1
        identity.update(Path(model).with_suffix(".json").read_bytes())
        self.identity = identity.hexdigest()
        self._max_tokens = text["max_tokens"]
        self._tokenizer = BertWordPieceTokenizer(WordPiece.read_file(str(vocab)), lowercase=True)
        self._tokenizer.enable_truncation(self._max_tokens)
        self._tokenizer.enable_padding(length=self._max_tokens, pad_id=0, pad_token="[PAD]")

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

    def answer(self, rgb, expression):
        """As `answers`, for one expression."""
        return next(self.answers(rgb, [expression]))

    def answers(self, rgb, expressions):
        """Yields what the model finds in an image (H, W, 3) uint8 for each expression, by `_judged`.

        The graph runs on batches of `batch_size`; the last pair fills an incomplete one. Raises: RequestError.
        """
        prepared = self.prepare(rgb)
        for first in range(0, len(expressions), self.batch_size):
            texts = expressions[first : first + self.batch_size]
            pairs = [(prepared, *self.encode(text)) for text in texts]
            pairs += pairs[-1:] * (self.batch_size - len(texts))
            outputs = self.outputs(*(np.stack(each) for each in zip(*pairs)))
            for row in range(len(texts)):
                yield self._judged([each[row] for each in outputs])

    def _judged(self, outputs):
        """Returns what the outputs of the graph for one pair say.

        These are the probability map (S, S) float32, the probability that something fits the expression, or None for a
        model without this output, and whether that is below the threshold of the export. Raises: RequestError if an
        output is not finite.
        """
        if not all(np.isfinite(each).all() for each in outputs):
            raise RequestError("the model's output is not finite: check its checkpoint with predict.py")
        threshold = self.description["existence_threshold"]
        if threshold is None:
            return outputs[0], None, False
        existence = float(outputs[1])
        return outputs[0], existence, existence < threshold

    def at_size(self, answer, rgb, expression):
        """Returns mask (H, W) bool, probability (H, W) float32 and warnings of an `answer`, one of `answers`."""
        probability, existence, nothing_fits = answer
        probability = cv2.resize(probability, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        mask = (probability > self.threshold) & (not nothing_fits)
        doubts = [self.nothing_fits_line(existence)] if nothing_fits else []
        return mask, probability, doubts + self.warnings(expression)

    @staticmethod
    def nothing_fits_line(existence):
        """Returns the warning if nothing fits; `existence` is the probability that something does."""
        return f"nothing in this image fits the expression (probability {existence:.2f} that something does)"

    def _encoding(self, expression):
        try:
            encoding = self._tokenizer.encode(expression)
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"the expression {ascii(expression)} is not text in UTF-8") from error
        if sum(encoding.attention_mask) <= 2 or not any(map(str.isalnum, expression)):
            raise RequestError("the expression is empty, without a word: say which object is meant")
        return encoding


def read_description(model):
    """Returns the .json that export.py wrote beside a graph. Raises: RequestError if it is missing or damaged."""
    path = Path(model).with_suffix(".json")
    try:
        description = json.loads(read(path, "description of the model").decode("utf-8"))
        description["versions"]["mindspore"].split(".")
        description.setdefault("existence_threshold", None)  # of a model without an existence output
        description["inputs"][0]["shape"][0]
        description["text"]["vocabulary_sha256"].encode()
        keys = ("device", "existence_threshold", "image", "inputs", "text", "threshold", "versions")
        return {key: description[key] for key in keys}
    except (AttributeError, ValueError, LookupError, TypeError) as error:
        raise RequestError(f"{path} does not describe a model: export the model again") from error


def load_image(path):
    """Returns an upright image, RGB (H, W, 3) uint8, by the rules of coupalign.data.images. Raises: RequestError."""
    return decode_image(read(path, "image"), path)


def decode_image(content, path):
    """As `load_image`, for the content of the file `path`."""
    try:
        return _pixels(content)
    except RequestError as error:
        raise RequestError(f"image {path} {error}") from error
    except Exception as error:  # Pillow raises nearly anything for damaged files
        raise RequestError(f"image {path} is not an image, is damaged or ends early: use a complete one") from error


def read(path, what):
    """Returns the content of a file; `what` it is begins the message. Raises: RequestError."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise RequestError(f"{what} {path} cannot be read ({getattr(error, 'strerror', error)}): check it") from error


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
