"""Batch normalisation of a training on one device or several."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign import devices


def batch_norm(width: int, statistics: str) -> nn.BatchNorm2d:
    """Batch normalisation of (B, width, h, w), with gamma and beta that are trained.

    Args:
        statistics: what training normalises by, the configuration's key ``batch_norm``. "local" is the samples that
            a device sees at a time; "synchronised" those that all devices see at that time, which on one device is
            the same; "frozen" the moving statistics, which then stay as they are. Evaluation always uses those.
    """
    if statistics == "frozen":
        return nn.BatchNorm2d(width, use_batch_statistics=False)
    if statistics == "synchronised" and devices.rank_count() > 1:
        return SynchronisedBatchNorm(width)
    return nn.BatchNorm2d(width)


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that in training normalises by mean and variance of all ranks' samples together.

    The moving variance takes in the unbiased one, as it does there. MindSpore's own ``nn.SyncBatchNorm`` is for Ascend
    alone; the sums here run everywhere. All ranks have to see equally many samples.

    Inputs: x (B, C, h, w). Outputs: the same shape and precision; statistics are float32.
    """

    def __init__(self, width: int):
        super().__init__(width)
        self.ranks = devices.rank_count()
        self.sum = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().construct(x)
        batch, width, height, columns = x.shape
        count = batch * height * columns * self.ranks
        # The gradient of a sum over ranks is the sum of their gradients, so those of mean and variance are exact.
        mean = self.sum(x.astype("float32").sum((0, 2, 3))) / count
        centred = x.astype("float32") - mean.reshape(1, width, 1, 1)
        variance = self.sum(ops.square(centred).sum((0, 2, 3))) / count
        self._remember(ops.stop_gradient(mean), ops.stop_gradient(variance) * (count / max(count - 1, 1)))
        scale = self.gamma * ops.rsqrt(variance + self.eps)
        return (centred * scale.reshape(1, width, 1, 1) + self.beta.reshape(1, width, 1, 1)).astype(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        # nn.BatchNorm2d keeps what its argument `momentum` leaves to the batch.
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            ops.assign(moving, moving + self.momentum * (new - moving))
