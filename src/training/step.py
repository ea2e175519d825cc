"""One step of training: losses, gradients, update."""
from __future__ import annotations

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.loss import PixelContrastiveLoss, SegmentationLoss
from src.model import CoupAlign
from src.model.dropout import connect_dropout

STATISTICS = ("moving_mean", "moving_variance")


class Objective(nn.Cell):
    """``L = L_seg + lambda L_aux`` (paper, Eq 17).

    Args:
        model: the model to train.
        contrast: the auxiliary loss.
        weight: lambda; at 0 the auxiliary loss is not computed.

    Inputs: image (B, 3, S, S); token_ids, token_mask (B, T); mask (B, S, S), 0 or 1.
    Outputs: L; L_seg; L_aux (0 where it is not computed); float32 scalars.
    """

    def __init__(self, model: CoupAlign, contrast: PixelContrastiveLoss, weight: float):
        super().__init__(auto_prefix=False)  # checkpoints keep the names of the model alone
        self.model = model
        self.segmentation = SegmentationLoss()
        self.contrast = contrast
        self.weight = weight

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor, mask: Tensor):
        logits, pixels = self.model.training_outputs(image, token_ids, token_mask)
        segmentation = self.segmentation(logits, mask)
        if self.weight == 0.0:
            return segmentation, segmentation, ops.zeros_like(segmentation)
        auxiliary = self.contrast(pixels, mask)
        return segmentation + self.weight * auxiliary, segmentation, auxiliary


class TrainStep(nn.Cell):
    """Losses of a batch, and one update of the parameters, unless loss or gradients are not finite.

    A step that is not finite changes nothing: no weight, no moment, not the number of updates that the learning rate
    follows, nor the statistics of norms, which its forward pass has already spoilt and which are put back.

    Args:
        objective: what to minimise; its first output.
        optimizer: of the objective's parameters.
        max_grad_norm: gradients are scaled down to this global norm; 0 leaves them.
        batch: samples at most of an input.

    Attributes:
        draws: the Parameter that dropout follows from; set it before each step (``src.model.dropout.draw``).

    Inputs: as Objective. Outputs: L; L_seg; L_aux; the learning rate of this update; whether it was made, a bool.
    """

    def __init__(self, objective: Objective, optimizer: nn.Cell, max_grad_norm: float, batch: int):
        super().__init__(auto_prefix=False)
        self.objective = objective  # a child, so that set_train reaches it
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.draws = connect_dropout(objective, batch)
        self.gradients = ops.value_and_grad(objective, None, optimizer.parameters, has_aux=True)
        statistics = [each for each in objective.get_parameters() if each.name.endswith(STATISTICS)]
        self.statistics = ParameterTuple(statistics)
        self.sound_statistics = ParameterTuple(
            [Parameter(each.value().copy(), name=f"sound.{each.name}", requires_grad=False) for each in statistics])

    def state(self) -> dict[str, Parameter]:
        """All parameters that the next step depends on: those of model and optimiser by name."""
        return {name: each for name, each in self.parameters_dict().items() if each is not self.draws}

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor, mask: Tensor):
        losses, gradients = self.gradients(image, token_ids, token_mask, mask)
        square = ops.zeros_like(losses[0])
        for each in gradients:
            square = square + ops.square(each).sum()
        norm = ops.sqrt(square)
        finite = ops.isfinite(losses[0] + norm)
        if self.max_grad_norm > 0:
            scale = self.max_grad_norm / ops.maximum(norm, self.max_grad_norm)
            gradients = [each * scale for each in gradients]
        learning_rate = self.optimizer.get_lr()
        losses = ops.depend(losses, learning_rate)
        if finite:
            self.optimizer(tuple(gradients))
            for sound, each in zip(self.sound_statistics, self.statistics):
                ops.assign(sound, each)
        else:
            for sound, each in zip(self.sound_statistics, self.statistics):
                ops.assign(each, sound)
        return losses, learning_rate, finite
