"""Prediction of one mask for one image and one expression.

This module can be imported without MindSpore and NumPy. ``Predictor`` imports them when it is created.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from coupalign.errors import UserError
from coupalign.files import find_checkpoint, find_file

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from coupalign.config import Config

    ImageInput = str | os.PathLike | np.ndarray | Image

_BATCH_SIZE = 4


@dataclass(frozen=True)
class Proposals:
    """Intermediate results of a prediction. S is the side of the model's input, T the number of token slots.

    Attributes:
        masks: (N, S/4, S/4) float32, logits Y_N (Eq 12). Their weighted sum is the predicted mask before upsampling.
            A model without Sentence-Mask Alignment has one: the predicted mask itself.
        weights: (N,) float32, Q_w (Eq 11). They sum to 1.
        text_to_image: per stage with Word-Pixel Alignment (H_i, W_i, T) float32, attention of each pixel over words.
        image_to_text: per stage (T, H_i, W_i) float32, attention of each word over pixels; empty if
            ``wpa_direction`` is uni.
        tokens: the T word pieces, with [CLS], [SEP] and [PAD].
        words: the words with the slots of their pieces (``Tokenizer.words``).
        stages: numbers of the stages with Word-Pixel Alignment, from 1.
        image_gates: per such stage the mean magnitude of the image gate's tanh (Eq 6), from 0 to 1.
        text_gates: the same for the text gate, averaged over unpadded tokens; empty if ``wpa_direction`` is uni.
    """

    masks: np.ndarray
    weights: np.ndarray
    text_to_image: tuple[np.ndarray, ...]
    image_to_text: tuple[np.ndarray, ...]
    tokens: list[str]
    words: list[tuple[str, list[int]]]
    stages: tuple[int, ...]
    image_gates: tuple[float, ...]
    text_gates: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The result for one image of height H and width W and one expression.

    Attributes:
        mask: (H, W) bool, true where the probability is above the configured threshold.
        probability: (H, W) float32.
        proposals: intermediate results, if they were requested.
        warnings: reasons to doubt the mask, for example words that are not in the vocabulary; usually empty.
    """

    mask: np.ndarray
    probability: np.ndarray
    proposals: Proposals | None = None
    warnings: tuple[str, ...] = ()

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
    """Predicts masks with a trained model.

    It sets MindSpore to graph mode on `device`. MindSpore compiles the model at the first prediction.

    Args:
        checkpoint: path of a .ckpt file. The config.yaml in its directory describes the model and names the vocabulary.
        device: CPU, GPU or Ascend. On the CPU the model computes in float32, whatever its configured precision.
        config: a configuration to use instead of the config.yaml and `device`.

    Raises:
        UserError: if the checkpoint, its config.yaml or the vocabulary is missing or does not fit, or the device is
            not available.
    """

    def __init__(self, checkpoint: str | os.PathLike, device: str = "CPU", *, config: Config | None = None):
        if not isinstance(checkpoint, (str, os.PathLike)):
            raise UserError(f"checkpoint must be the path of a .ckpt file, but is of type {type(checkpoint).__name__}")
        # MindSpore takes seconds to import, so a wrong path is reported before.
        path = find_checkpoint(checkpoint)
        config = config or _config_beside(path, device)
        from coupalign.checkpoints.loading import load_checkpoint
        from coupalign.data.tokenizer import Tokenizer
        from coupalign.devices import use_device
        from coupalign.inference.graph import PredictAll
        from coupalign.kernels import use_kernels
        from coupalign.model import build_model

        use_device(config.run.device_target)
        self.config = config
        self.tokenizer = Tokenizer(_vocabulary(config.data.vocab_file, path), config.model.max_tokens)
        self.model = use_kernels(build_model(config), config)
        load_checkpoint(path, self.model)
        self.model.set_train(False)
        self._predict_all = PredictAll(self.model)

    def predict(
        self,
        image: ImageInput,
        expression: str,
        proposals: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Prediction:
        """Predicts the mask of the object that `expression` refers to.

        Args:
            image: path of an image file, RGB pixels (H, W, 3) uint8, or a PIL image. Files and PIL images are turned
                upright by their EXIF or XMP orientation.
            expression: English text.
            proposals: also return the N masks with their weights, and the word-pixel attention.
            size: height and width of the mask and the probability map, if they should differ from the image's.

        Raises:
            UserError: if the image cannot be read or has another type or shape, the expression has no word, a token id
                is not in the model's vocabulary, or the model's output is not finite.
        """
        from mindspore import Tensor

        from coupalign.model import Outputs

        rgb = _pixels(image)
        tensors = [Tensor(array[None]) for array in self._inputs(rgb, expression)]
        if not proposals:
            return self._prediction(self.model(*tensors).asnumpy(), expression, size or (rgb.shape[0], rgb.shape[1]))
        outputs = Outputs.from_tuple(self._predict_all(*tensors))
        both_ways = [each for each in outputs.alignments if each.over_pixels is not None]
        details = Proposals(
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
        return self._prediction(outputs.logits.asnumpy(), expression, size or (rgb.shape[0], rgb.shape[1]), details)

    def predict_batch(
        self, images: Sequence[ImageInput], expressions: Sequence[str], batch_size: int = _BATCH_SIZE
    ) -> list[Prediction]:
        """Predicts a mask for each pair of an image and an expression.

        Args:
            images: as for ``predict``; they may differ in size.
            expressions: one for each image.
            batch_size: pairs per forward pass. The last batch is padded, because MindSpore compiles each batch size
                anew.

        Returns: predictions in the order of the pairs, equal to those of ``predict``.

        Raises: UserError as ``predict``, or if the numbers of images and expressions differ.
        """
        import numpy as np
        from mindspore import Tensor

        for name, given in (("images", images), ("expressions", expressions)):
            if not isinstance(given, (list, tuple)):
                raise UserError(f"{name} must be a list, but is of type {type(given).__name__}")
        if len(images) != len(expressions):
            raise UserError(f"{len(images)} images and {len(expressions)} expressions: give one expression per image")
        predictions = []
        for start in range(0, len(images), batch_size):
            pairs = list(zip(images[start : start + batch_size], expressions[start : start + batch_size]))
            pixels = [_pixels(image) for image, _ in pairs]
            inputs = [self._inputs(rgb, expression) for rgb, (_, expression) in zip(pixels, pairs)]
            inputs += inputs[-1:] * (batch_size - len(inputs))
            logits = self.model(*(Tensor(np.stack(arrays)) for arrays in zip(*inputs))).asnumpy()
            for row, (rgb, (_, expression)) in enumerate(zip(pixels, pairs)):
                predictions.append(self._prediction(logits[row : row + 1], expression, (rgb.shape[0], rgb.shape[1])))
        return predictions

    def warnings(self, expression: str) -> tuple[str, ...]:
        """Reasons to doubt the masks of an expression: parts that were cut off, and unknown words.

        Raises: UserError if the model cannot take the expression, as ``predict``.
        """
        self._encode(expression)
        return self.tokenizer.warnings(expression)

    def _inputs(self, rgb: np.ndarray, expression: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (3, S, S) float32, token ids (T,) and token mask (T,), both int32."""
        from coupalign.data.transform import prepare_image

        return prepare_image(rgb, self.config.model.image_size), *self._encode(expression)

    def _encode(self, expression: str) -> tuple[np.ndarray, np.ndarray]:
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

    def _prediction(
        self, logits: np.ndarray, expression: str, size: tuple[int, int], proposals: Proposals | None = None
    ) -> Prediction:
        from coupalign.data.transform import probability_at
        from coupalign.evaluation.evaluate import probabilities

        probability = probability_at(probabilities(logits)[0], *size)
        mask = probability > self.config.evaluation.threshold
        return Prediction(mask, probability, proposals, self.tokenizer.warnings(expression))


def _config_beside(checkpoint: Path, device: str) -> Config:
    """The config.yaml in the directory of a checkpoint, for inference on `device`."""
    from coupalign.config import load_inference_config

    path = checkpoint.with_name("config.yaml")
    if not path.is_file():
        raise UserError(f"no configuration {path}: copy the config.yaml of the training beside the checkpoint")
    return load_inference_config(path, {"device_target": device})


def _vocabulary(vocab_file: str, checkpoint: Path) -> Path:
    """The vocabulary file that a configuration names; one in the checkpoint's directory if there is no other."""
    path = find_file(vocab_file)
    beside = checkpoint.with_name(path.name)
    return beside if beside.is_file() and not path.is_file() else path


def _pixels(image: ImageInput) -> np.ndarray:
    """RGB (H, W, 3) uint8. Raises: UserError."""
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
        raise UserError(
            f"an image must be a path, an RGB array or a PIL image, but is of type {type(image).__name__}"
            + (": pass several with predict_batch" if isinstance(image, (list, tuple)) else "")
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(f"an image array must be RGB (H, W, 3) uint8, but is {image.shape} of {image.dtype}")
    return image


def _square(attention: np.ndarray, axis: int) -> np.ndarray:
    """Splits the axis of pixels, which are in row order, into two equal axes."""
    side = round(attention.shape[axis] ** 0.5)
    return attention.reshape(*attention.shape[:axis], side, side, *attention.shape[axis + 1 :])
