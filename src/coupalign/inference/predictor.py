"""One image and one expression in, one mask out."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn

from coupalign.checkpoints.loading import find_checkpoint, load_checkpoint
from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import load_image, prepare_image, probability_at
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import probabilities
from coupalign.files import find_file
from coupalign.kernels import use_kernels
from coupalign.model import build_model


@dataclass(frozen=True)
class Proposals:
    """What a prediction was made of; sizes as in the model, S the side of its input.

    Attributes:
        masks: (N, S/4, S/4) float32, Y_N (Eq 12), logits; their sum by weight is the prediction before upsampling.
            Without Sentence-Mask Alignment the prediction itself is the only one.
        weights: (N,) float32, Q_w (Eq 11), which sum to 1.
        text_to_image: per stage with Word-Pixel Alignment (H_i, W_i, T) float32: how much each pixel takes from each
            word.
        image_to_text: the same for (T, H_i, W_i): how much each word takes from each pixel; empty in one direction.
        tokens: the T word pieces.
        words: the words they are pieces of, each with its slots among the T (``Tokenizer.words``).
        stages: numbers from 1 of the stages with Word-Pixel Alignment.
        image_gates: per such stage, how far its gate lets words into pixels: mean magnitude of Eq 6's tanh, 0 to 1.
        text_gates: the same of pixels into words, over the real pieces; empty in one direction.
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
    """The answer for an image of height H and width W, or at another size that was asked for.

    Attributes:
        mask: (H, W) bool, where the probability is above the configuration's threshold.
        probability: (H, W) float32.
        proposals: on request only.
    """

    mask: np.ndarray
    probability: np.ndarray
    proposals: Proposals | None = None


class Predictor:
    """Predicts masks with a trained model, which is compiled at the first prediction.

    Args:
        config: the configuration the checkpoint was made with; ``coupalign.context.set_up(config)`` comes first where graph
            mode or another device than MindSpore's default is wanted.
        checkpoint: path of a .ckpt file.

    Raises:
        UserError: where the checkpoint or the vocabulary cannot be had or does not fit.
    """

    def __init__(self, config: Config, checkpoint: str | os.PathLike):
        find_checkpoint(checkpoint)  # a large model takes long to build
        self.config = config
        self.tokenizer = Tokenizer(find_file(config.data.vocab_file), config.model.max_tokens)
        self.model = use_kernels(build_model(config), config)
        load_checkpoint(checkpoint, self.model)
        self.model.set_train(False)
        self._everything = _Everything(self.model)

    def predict(
        self,
        image: np.ndarray | str | os.PathLike,
        expression: str,
        proposals: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Prediction:
        """The mask of what `expression` names in `image`.

        Args:
            image: path of an image file, or RGB pixels (H, W, 3) uint8.
            expression: English text.
            proposals: also return the N masks, their weights, the word-pixel attention and its gates.
            size: height and width of the mask and the probability in place of the image's own.

        Raises:
            UserError: for a file that is no image, pixels of another type or shape, an empty expression, a word
                beyond the model's vocabulary, or a model whose output is not finite.
        """
        rgb = _pixels(image)
        token_ids, token_mask = self.tokenizer.encode(expression)
        if token_ids.max() >= self.config.model.bert_vocab_size:
            raise UserError(
                f"vocab_file {self.config.data.vocab_file} has words beyond bert_vocab_size "
                f"{self.config.model.bert_vocab_size}: pass the vocabulary that the model was trained with"
            )
        inputs = [
            Tensor(array[None]) for array in (prepare_image(rgb, self.config.model.image_size), token_ids, token_mask)
        ]
        if not proposals:
            return self._prediction(self.model(*inputs).asnumpy(), size or rgb.shape)
        logits, _, masks, weights, alignments = self._everything(*inputs)
        details = Proposals(
            masks=masks.asnumpy()[0],
            weights=weights.asnumpy()[0],
            text_to_image=tuple(_square(each[0].asnumpy()[0], 0) for each in alignments),
            image_to_text=tuple(_square(each[1].asnumpy()[0], 1) for each in alignments if each[1] is not None),
            tokens=self.tokenizer.tokens(expression),
            words=self.tokenizer.words(expression),
            stages=tuple(number for number, aligned in enumerate(self.model.aligned, 1) if aligned),
            image_gates=tuple(float(each[2].asnumpy()[0]) for each in alignments),
            text_gates=tuple(float(each[3].asnumpy()[0]) for each in alignments if each[3] is not None),
        )
        return self._prediction(logits.asnumpy(), size or rgb.shape, details)

    def _prediction(self, logits: np.ndarray, shape: tuple[int, ...], details: Proposals | None = None) -> Prediction:
        probability = probability_at(probabilities(logits)[0], shape[0], shape[1])
        return Prediction(probability > self.config.evaluation.threshold, probability, details)


class _Everything(nn.Cell):
    """``predict_all`` as a Cell, the unit that MindSpore compiles."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple:
        return self.model.predict_all(image, token_ids, token_mask)


def _pixels(image: np.ndarray | str | os.PathLike) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        return load_image(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(f"an image is RGB pixels (H, W, 3) of uint8, but this is {image.shape} of {image.dtype}")
    return image


def _square(attention: np.ndarray, axis: int) -> np.ndarray:
    """Splits the axis of pixels, row by row, into height and width, which are equal."""
    side = round(attention.shape[axis] ** 0.5)
    return attention.reshape(*attention.shape[:axis], side, side, *attention.shape[axis + 1 :])
