"""Prediction of one mask for one image and one expression.

Packages are imported where they are used, so that ``coupalign.Predictor`` itself needs none of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Union

from coupalign.errors import UserError
from coupalign.files import find_checkpoint, find_file

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from coupalign.config import Config
    from coupalign.model import Outputs

    ImageInput = Union[str, os.PathLike, np.ndarray, Image.Image]


@dataclass(frozen=True)
class Proposals:
    """Intermediate results of a prediction. S is the side of the model's input, T the number of token slots.

    Attention and gates have one entry per stage i with Word-Pixel Alignment, whose feature map is (H_i, W_i);
    ``image_to_text`` and ``text_gates`` are empty if ``wpa_direction`` is uni.
    """

    masks: np.ndarray  # (N, S/4, S/4) float32, logits Y_N (Eq 12); without Sentence-Mask Alignment the mask alone
    weights: np.ndarray  # (N,) float32, Q_w (Eq 11), which sum to 1; the weighted sum of `masks` is the mask
    text_to_image: tuple[np.ndarray, ...]  # (H_i, W_i, T) float32, attention of each pixel over words
    image_to_text: tuple[np.ndarray, ...]  # (T, H_i, W_i) float32, attention of each word over pixels
    tokens: list[str]  # the T word pieces, with [CLS], [SEP] and [PAD]
    words: list[tuple[str, list[int]]]  # with the slots of their pieces (``Tokenizer.words``)
    stages: tuple[int, ...]  # numbers of the stages with Word-Pixel Alignment, from 1
    image_gates: tuple[float, ...]  # mean magnitude of the image gate's tanh (Eq 6), from 0 to 1
    text_gates: tuple[float, ...]  # the same for the text gate, averaged over unpadded tokens


@dataclass(frozen=True)
class Prediction:
    """The result for one image of height H and width W and one expression."""

    mask: np.ndarray  # (H, W) bool, true where the probability is above the configured threshold
    probability: np.ndarray  # (H, W) float32
    proposals: Proposals | None = None  # if they were requested
    warnings: tuple[str, ...] = ()  # reasons to doubt the mask, such as words that are not in the vocabulary

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """Smallest box around the mask: x, y, width and height in pixels; None if the mask is empty."""
        rows, columns = self.mask.any(1).nonzero()[0], self.mask.any(0).nonzero()[0]
        if not len(rows):
            return None
        x, y = int(columns[0]), int(rows[0])
        return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1

    @cached_property
    def score(self) -> float:
        """The largest probability of a pixel."""
        return float(self.probability.max())


class Predictor:
    """Predicts masks with a trained model, in MindSpore's graph mode; the first prediction compiles the model.

    Args:
        checkpoint: path of a .ckpt file. The config.yaml in its directory describes the model and names the vocabulary.
        device: CPU, GPU or Ascend. On the CPU the model computes in float32, whatever its configured precision.
        config: a configuration to use instead of the config.yaml and `device`.

    Raises: UserError if a file is missing or does not fit, or the device is not available.
    """

    def __init__(self, checkpoint: str | os.PathLike, device: str = "CPU", *, config: Config | None = None):
        from coupalign.checkpoints.loading import load_checkpoint
        from coupalign.config import load_inference_config
        from coupalign.data.tokenizer import Tokenizer
        from coupalign.devices import use_device
        from coupalign.inference.graph import PredictAll
        from coupalign.kernels import use_kernels
        from coupalign.model import build_model

        if not isinstance(checkpoint, (str, os.PathLike)):
            raise UserError(f"checkpoint must be the path of a .ckpt file, but is of type {type(checkpoint).__name__}")
        path = find_checkpoint(checkpoint)
        if config is None:
            file = path.with_name("config.yaml")
            if not file.is_file():
                raise UserError(f"no configuration {file}: copy the config.yaml of the training beside the checkpoint")
            config = load_inference_config(file, {"device_target": device})
        use_device(config.run)
        self.config = config
        vocabulary = find_file(config.data.vocab_file)
        if not vocabulary.is_file() and path.with_name(vocabulary.name).is_file():
            vocabulary = path.with_name(vocabulary.name)  # copied with the checkpoint
        self.tokenizer = Tokenizer(vocabulary, config.model.max_tokens)
        self.model = use_kernels(build_model(config), config.run)
        load_checkpoint(path, self.model)
        self.model.set_train(False)
        self._predict_all = PredictAll(self.model)

    def predict(
        self, image: ImageInput, expression: str, proposals: bool = False, size: tuple[int, int] | None = None
    ) -> Prediction:
        """Predicts the mask of the object that `expression` refers to.

        Args:
            image: path of an image file, RGB pixels (H, W, 3) uint8, or a PIL image. Files and PIL images are turned
                upright by their EXIF or XMP orientation.
            expression: English text.
            proposals: also return the N masks with their weights, and the word-pixel attention.
            size: height and width of the mask and the probability map, if they should differ from the image's.

        Raises: UserError if the image or the expression cannot be used, or the model's output is not finite.
        """
        from mindspore import Tensor

        from coupalign.model import Outputs

        rgb = _pixels(image)
        inputs = [Tensor(array[None]) for array in self._inputs(rgb, expression)]
        size = size or (rgb.shape[0], rgb.shape[1])
        if not proposals:
            return self._prediction(self.model(*inputs).asnumpy(), expression, size)
        outputs = Outputs.from_tuple(self._predict_all(*inputs))
        return self._prediction(outputs.logits.asnumpy(), expression, size, self._proposals(outputs, expression))

    def predict_batch(
        self, images: Sequence[ImageInput], expressions: Sequence[str], batch_size: int = 4
    ) -> list[Prediction]:
        """Predicts a mask for each pair of an image and an expression.

        Args:
            images: as for ``predict``; they may differ in size.
            expressions: one for each image.
            batch_size: pairs per forward pass. The last one is padded: MindSpore compiles again for each batch size.

        Returns: predictions equal to those of ``predict``. Raises: UserError, as ``predict``.
        """
        import numpy as np
        from mindspore import Tensor

        if not isinstance(images, (list, tuple)) or not isinstance(expressions, (list, tuple)):
            raise UserError("images and expressions must be lists: use predict for a single pair")
        if len(images) != len(expressions):
            raise UserError(f"{len(images)} images and {len(expressions)} expressions: give one expression per image")
        predictions = []
        for start in range(0, len(images), batch_size):
            texts = expressions[start : start + batch_size]
            pixels = [_pixels(image) for image in images[start : start + batch_size]]
            inputs = [self._inputs(rgb, text) for rgb, text in zip(pixels, texts)]
            inputs += inputs[-1:] * (batch_size - len(inputs))
            logits = self.model(*(Tensor(np.stack(arrays)) for arrays in zip(*inputs))).asnumpy()
            for row, (rgb, text) in enumerate(zip(pixels, texts)):
                predictions.append(self._prediction(logits[row : row + 1], text, (rgb.shape[0], rgb.shape[1])))
        return predictions

    def encode(self, expression: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns token ids and token mask, both (T,) int32. Raises: UserError, as ``predict``."""
        if not isinstance(expression, str):
            raise UserError(f"an expression must be text, but is of type {type(expression).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in expression):
            raise UserError(f"the expression {ascii(expression)} is not text in UTF-8")
        token_ids, token_mask = self.tokenizer.encode(expression)
        if token_ids.max() >= self.config.model.bert_vocab_size:
            raise UserError(
                f"vocab_file {self.config.data.vocab_file} has words beyond bert_vocab_size "
                f"{self.config.model.bert_vocab_size}: pass the vocabulary that the model was trained with"
            )
        return token_ids, token_mask

    def _inputs(self, rgb: np.ndarray, expression: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from coupalign.data.transform import prepare_image

        return prepare_image(rgb, self.config.model.image_size), *self.encode(expression)

    def _proposals(self, outputs: Outputs, expression: str) -> Proposals:
        both_ways = [each for each in outputs.alignments if each.over_pixels is not None]
        return Proposals(
            masks=outputs.proposals.asnumpy()[0],
            weights=outputs.weights.asnumpy()[0],
            text_to_image=tuple(_square(each.over_words.asnumpy()[0], 0) for each in outputs.alignments),
            image_to_text=tuple(_square(each.over_pixels.asnumpy()[0], 1) for each in both_ways),
            tokens=self.tokenizer.tokens(expression),
            words=self.tokenizer.words(expression),
            stages=tuple(stage for stage, has_wpa in enumerate(self.model.has_wpa, 1) if has_wpa),
            image_gates=tuple(float(each.image_gate.asnumpy()[0]) for each in outputs.alignments),
            text_gates=tuple(float(each.text_gate.asnumpy()[0]) for each in both_ways),
        )

    def _prediction(
        self, logits: np.ndarray, expression: str, size: tuple[int, int], proposals: Proposals | None = None
    ) -> Prediction:
        from coupalign.data.transform import probability_at
        from coupalign.evaluation.evaluate import probabilities

        probability = probability_at(probabilities(logits)[0], *size)
        mask = probability > self.config.evaluation.threshold
        return Prediction(mask, probability, proposals, self.tokenizer.warnings(expression))


def _pixels(image: ImageInput) -> np.ndarray:
    import numpy as np
    from PIL import Image, ImageFile, ImageOps

    from coupalign.data.images import load_image, rgb_pixels

    if isinstance(image, (str, os.PathLike)):
        return load_image(image)
    if isinstance(image, Image.Image):
        if isinstance(image, ImageFile.ImageFile) and image.format == "TIFF":
            image.filename = ""  # from a file that is not compressed, Pillow would turn the picture twice
        return rgb_pixels(ImageOps.exif_transpose(image), "the PIL image")
    if not isinstance(image, np.ndarray):
        several = ": pass several with predict_batch" if isinstance(image, (list, tuple)) else ""
        kind = type(image).__name__
        raise UserError(f"an image must be a path, an RGB array or a PIL image, but is of type {kind}{several}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(f"an image array must be RGB (H, W, 3) uint8, but is {image.shape} of {image.dtype}")
    return image


def _square(attention: np.ndarray, axis: int) -> np.ndarray:
    """Splits the axis of pixels, which are in row order, into two equal axes."""
    side = round(attention.shape[axis] ** 0.5)
    return attention.reshape(*attention.shape[:axis], side, side, *attention.shape[axis + 1 :])
