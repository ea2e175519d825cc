"""Batch normalisation on one device or several."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign import devices


def batch_norm(width: int, statistics: str) -> nn.BatchNorm2d:
    """Batch normalisation of (B, width, h, w) with trained gamma and beta.

    Training normalises with ``statistics`` (key ``batch_norm``): "local", of the micro batch of this device;
    "synchronised", of the micro batches of all devices; "frozen", the moving statistics, which then stay unchanged.
    Evaluation always uses the moving statistics.
    """
    if statistics == "frozen":
        return nn.BatchNorm2d(width, use_batch_statistics=False)
    if statistics == "synchronised" and devices.rank_count() > 1:
        return SynchronisedBatchNorm(width)
    return nn.BatchNorm2d(width)


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training statistics are those of the samples of all ranks.

    ``nn.SyncBatchNorm`` of MindSpore runs on Ascend only; the sums here run on every platform. All ranks must see
    equally many samples.

    Inputs: x (B, C, h, w). Outputs: same shape and dtype as x; statistics are float32.
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
        # The gradient of AllReduce is the AllReduce of the gradients, so gradients of mean and variance are exact.
        mean = self.sum(x.astype("float32").sum((0, 2, 3))) / count
        centred = x.astype("float32") - mean.reshape(1, width, 1, 1)
        variance = self.sum(ops.square(centred).sum((0, 2, 3))) / count
        unbiased = variance * (count / max(count - 1, 1))
        # Here self.momentum is the share of the new batch: 1 minus the argument `momentum` of nn.BatchNorm2d.
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            ops.assign(moving, moving + self.momentum * (ops.stop_gradient(new) - moving))
        scale = self.gamma * ops.rsqrt(variance + self.eps)
        return (centred * scale.reshape(1, width, 1, 1) + self.beta.reshape(1, width, 1, 1)).astype(x.dtype)
