"""Prediction of masks for images and expressions.

Packages are imported where they are used, so that ``coupalign.Predictor`` itself needs none of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Union, overload

from coupalign.errors import UserError
from coupalign.files import find_checkpoint, find_file
from coupalign.inference.prediction import Details, Prediction, nothing_fits_line

if TYPE_CHECKING:
    import numpy as np
    from mindspore import Tensor
    from mindspore.nn import Cell
    from PIL import Image

    from coupalign.config import Config
    from coupalign.model import Outputs

    ImageInput = Union[str, os.PathLike, np.ndarray, Image.Image]


class Predictor:
    """Predicts masks with a trained model, in MindSpore's graph mode; the first prediction compiles the model.

    Args:
        checkpoint: path of a .ckpt or .safetensors file. The config.yaml in its directory describes the model and names
            the vocabulary, which is taken from that directory if it is there.
        device: CPU, GPU or Ascend. On the CPU the model computes in float32, whatever its configured precision.
        config: a configuration to use instead of the config.yaml and `device`.
        keep_graph: on the CPU, keep the first compiled graph in the user's cache directory for later processes. Not for
            programs that change code of this package in memory, which the cache does not notice.

    Raises: UserError if a file is missing or does not fit, or the device is not available.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        device: str = "CPU",
        *,
        config: Config | None = None,
        keep_graph: bool = False,
    ):
        from coupalign.checkpoints.trained import trained_model
        from coupalign.config import load_inference_config
        from coupalign.data.tokenizer import Tokenizer
        from coupalign.devices import use_device
        from coupalign.inference.graph import PredictAll

        if not isinstance(checkpoint, (str, os.PathLike)):
            raise UserError(f"checkpoint must be the path of a file, but is of type {type(checkpoint).__name__}")
        path = find_checkpoint(checkpoint)
        own_config = config is None
        if config is None:
            file = path.with_name("config.yaml")
            if not file.is_file():
                raise UserError(f"no configuration {file}: copy the config.yaml of the training beside the checkpoint")
            config = load_inference_config(file, {"device_target": device})
        use_device(config.run)
        self.config, self._keeps_graph = config, keep_graph
        vocabulary = find_file(config.data.vocab_file)
        copied = path.with_name(vocabulary.name)
        if copied.is_file() and (own_config or not vocabulary.is_file()):
            vocabulary = copied
        self.tokenizer = Tokenizer(vocabulary, config.model.max_tokens)
        self.model = trained_model(config, path)
        self._predict_all = PredictAll(self.model)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, device: str = "CPU") -> Predictor:
        """A predictor with a model by name ("refshapes", a synthetic example) or in a directory.

        Args:
            source: see ``coupalign.inference.pretrained.find_model``; ``download_model`` beside it makes a directory.
            device: CPU, GPU or Ascend.

        Raises: UserError, as the constructor, or if there is no such model.
        """
        from coupalign.inference.pretrained import find_model

        return cls(find_model(source), device)

    def predict(
        self, image: ImageInput, expression: str, details: bool = False, size: tuple[int, int] | None = None
    ) -> Prediction:
        """Predicts the mask of the object that `expression` refers to.

        Args:
            image: path of an image file, RGB pixels (H, W, 3) uint8, or a PIL image. Files and PIL images are turned
                upright by their EXIF or XMP orientation.
            expression: English text.
            details: also return the N masks with their weights, and the word-pixel attention.
            size: height and width of the mask and the probability map, if they should differ from the image's.

        Raises: UserError if the image or the expression cannot be used, or the model's output is not finite.
        """
        from mindspore import Tensor

        from coupalign.evaluation.evaluate import probabilities
        from coupalign.model import Outputs

        own_size, _, arrays = next(self._samples([image], [[expression]]))
        inputs, size = [Tensor(array[None]) for array in arrays], size or own_size
        if not details:
            (probability,), (exists,) = probabilities(self._run(self.model, inputs))
            return self._prediction(probability, exists, expression, size)
        outputs = Outputs.from_tuple(self._run(self._predict_all, inputs))
        judged = outputs.logits if outputs.existence is None else (outputs.logits, outputs.existence)
        (probability,), (exists,) = probabilities(judged)
        return self._prediction(probability, exists, expression, size, self._details(outputs, expression))

    @overload
    def predict_batch(
        self, images: Sequence[ImageInput], expressions: Sequence[str], batch_size: int = 8
    ) -> list[Prediction]: ...

    @overload
    def predict_batch(
        self, images: Sequence[ImageInput], expressions: Sequence[list[str]], batch_size: int = 8
    ) -> list[list[Prediction]]: ...

    def predict_batch(
        self, images: Sequence[ImageInput], expressions: Sequence[str] | Sequence[list[str]], batch_size: int = 8
    ) -> list[Prediction] | list[list[Prediction]]:
        """Predicts the masks of many images, `batch_size` pairs of an image and an expression at a time.

        Args:
            images: as for ``predict``; they may differ in size. Each is read and resized once.
            expressions: for each image an expression, or a list of expressions.
            batch_size: pairs per forward pass. The last batch is padded, because MindSpore compiles a graph for each
                batch size.

        Returns: for each image a prediction, or a list of them if its expressions are a list. They equal those of
            ``predict`` up to the rounding of float32.

        Raises: UserError, as ``predict``. All expressions are checked before the first forward pass.
        """
        import numpy as np
        from mindspore import Tensor

        from coupalign.evaluation.evaluate import probabilities

        if not isinstance(images, (list, tuple)) or not isinstance(expressions, (list, tuple)):
            raise UserError("images and expressions must be lists: use predict for a single pair")
        if len(images) != len(expressions):
            raise UserError(
                f"{len(images)} images and {len(expressions)} expressions: give an expression, or a list, per image"
            )
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give at least 1")
        texts = [list(each) if isinstance(each, (list, tuple)) else [each] for each in expressions]
        for text in chain.from_iterable(texts):
            self.encode(text)
        found: list[Prediction] = []
        samples = self._samples(images, texts)
        while batch := list(islice(samples, batch_size)):
            inputs = [each for _, _, each in batch]
            inputs += inputs[-1:] * (batch_size - len(inputs))
            outputs = probabilities(self._run(self.model, [Tensor(np.stack(arrays)) for arrays in zip(*inputs)]))
            for probability, exists, (size, text, _) in zip(*outputs, batch):
                found.append(self._prediction(probability, exists, text, size))
        remaining = iter(found)
        results = [list(islice(remaining, len(several))) for several in texts]
        return [each if isinstance(given, (list, tuple)) else each[0] for each, given in zip(results, expressions)]  # type: ignore[return-value]

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

    def _run(self, network: Cell, inputs: Sequence[Tensor]) -> Any:
        if self._keeps_graph:
            from coupalign.inference.graph_cache import compile_cached

            compile_cached(network, inputs, self.config)
        return network(*inputs)

    def _samples(
        self, images: Sequence[ImageInput], texts: Sequence[Sequence[str]]
    ) -> Iterator[tuple[tuple[int, int], str, tuple[np.ndarray, ...]]]:
        """Yields the size of the image, the expression and the model's inputs for each expression of each image."""
        from coupalign.data.transform import prepare_image

        for image, several in zip(images, texts):
            rgb = _pixels(image)
            prepared = prepare_image(rgb, self.config.model.image_size)
            for text in several:
                yield (rgb.shape[0], rgb.shape[1]), text, (prepared, *self.encode(text))

    def _details(self, outputs: Outputs, expression: str) -> Details:
        import numpy as np

        both_ways = [each for each in outputs.alignments if each.over_pixels is not None]
        weights = outputs.weights.asnumpy()[0]
        largest_first = np.argsort(-weights, kind="stable")
        return Details(
            masks=outputs.proposals.asnumpy()[0][largest_first],
            weights=weights[largest_first],
            text_to_image=tuple(_square(each.over_words.asnumpy()[0], 0) for each in outputs.alignments),
            image_to_text=tuple(_square(each.over_pixels.asnumpy()[0], 1) for each in both_ways),
            tokens=self.tokenizer.tokens(expression),
            words=self.tokenizer.words(expression),
            stages=tuple(stage for stage, has_wpa in enumerate(self.model.has_wpa, 1) if has_wpa),
            image_gates=tuple(float(each.image_gate.asnumpy()[0]) for each in outputs.alignments),
            text_gates=tuple(float(each.text_gate.asnumpy()[0]) for each in both_ways),
        )

    def _prediction(
        self,
        probability: np.ndarray,
        exists: np.floating,
        expression: str,
        size: tuple[int, int],
        details: Details | None = None,
    ) -> Prediction:
        from coupalign.data.transform import probability_at

        settings = self.config.evaluation
        probability = probability_at(probability, *size)
        nothing_fits = bool(exists < settings.existence_threshold)
        doubts = (nothing_fits_line(float(exists)),) if nothing_fits else ()
        return Prediction(
            mask=(probability > settings.threshold) & (not nothing_fits),
            probability=probability,
            details=details,
            warnings=doubts + self.tokenizer.warnings(expression),
            existence=float(exists) if self.config.model.existence else None,
            nothing_fits=nothing_fits,
        )


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
