"""Work of each of two ranks for test_distributed.py: python -m tests.two_ranks DIRECTORY, started by msrun.

Writes rank_<n>.npz, the runs trained/ and mixed/, and evaluations of best.ckpt, evaluated/ and mixed_evaluated/, to
DIRECTORY.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from coupalign.signals import take_signals


def main(directory: Path) -> None:
    logging.basicConfig(level=logging.INFO)
    take_signals()  # before MindSpore is imported
    from mindspore import Tensor

    from coupalign import devices
    from coupalign.config import load_config
    from coupalign.devices import set_up

    config = load_config(directory / "config.yaml")
    set_up(config.run)
    assert devices.rank_count() == 2 and devices.rank() == int(os.environ["MS_NODE_ID"])
    numbers = np.array([[2**62, -1], [3, 2**24 + 1]]) // (1 + devices.rank())
    found = {
        "total": devices.all_reduce_sum(numbers),
        "sum": devices.all_reduce_sum(np.float32([0.1, devices.rank()])),
        "largest": devices.all_reduce_max(-5 - devices.rank()),
    }
    found["finite"] = devices.AllFinite()(Tensor(np.float32([1.0, np.inf][devices.rank()]))).asnumpy()
    found.update(normalised(devices.rank()))
    found["shared"] = shared_statistics(devices.rank())
    found.update(scaled(devices.rank(), 2))
    train_with_a_stop(config)  # before other trainings, so that weights start as in a process of its own
    evaluate(config, directory / "best.ckpt", directory / "evaluated", devices.rank() == 0)
    mixture = load_config(directory / "mixture.yaml")
    found["mixed"] = train_on_several(mixture)
    np.savez(directory / f"rank_{devices.rank()}.npz", **found)
    for each in mixture.data_sets():
        evaluate(each, directory / "best.ckpt", directory / "mixed_evaluated" / each.data.name, devices.rank() == 0)


def batch() -> tuple[np.ndarray, ...]:
    """Returns x and weights of a loss, (4, 3, 5, 7); gamma, beta and moving statistics, (3,)."""
    random = np.random.default_rng(1)
    x, weight = random.standard_normal((2, 4, 3, 5, 7))
    return tuple(each.astype(np.float32) for each in (x + 10, weight, *(0.5 + random.random((4, 3)))))


def normalised(rank: int) -> dict[str, np.ndarray]:
    """Returns outputs, gradients and moving statistics of SynchronisedBatchNorm for this rank's half of `batch`."""
    from mindspore import ParameterTuple, Tensor, nn, ops

    from coupalign.model.batch_norm import SynchronisedBatchNorm, batch_norm

    class Weighted(nn.Cell):
        """A loss whose gradient differs for every output."""

        def __init__(self, cell: nn.Cell, weight: Tensor):
            super().__init__()
            self.cell, self.weight = cell, weight

        def construct(self, x: Tensor):
            y = self.cell(x)
            return (y * self.weight).sum(), y

    x, weight, *values = batch()
    cell = batch_norm(3, "synchronised")
    assert isinstance(cell, SynchronisedBatchNorm)
    parameters = (cell.gamma, cell.beta, cell.moving_mean, cell.moving_variance)
    for parameter, value in zip(parameters, values):
        parameter.set_data(Tensor(value))
    half = slice(2 * rank, 2 * rank + 2)
    gradient = ops.grad(
        Weighted(cell, Tensor(weight[half])).set_train(), 0, ParameterTuple(parameters[:2]), has_aux=True
    )
    (dx, (dgamma, dbeta)), (y,) = gradient(Tensor(x[half]))
    found = {
        "y": y,
        "dx": dx,
        "dgamma": dgamma,
        "dbeta": dbeta,
        "moving_mean": cell.moving_mean,
        "moving_variance": cell.moving_variance,
        "evaluated": cell.set_train(False)(Tensor(x[half])),
    }
    return {name: each.asnumpy() for name, each in found.items()}


def shared_statistics(rank: int) -> np.ndarray:
    """Returns statistics that differed by rank, and a weight, after they were averaged."""
    from mindspore import Parameter, Tensor

    from coupalign.training.step import TrainStep

    state = {
        name: Parameter(Tensor(np.float32([1.0 + rank, 5.0 * rank])))
        for name in ("bn.moving_mean", "sound.bn.moving_variance", "bn.gamma")
    }
    TrainStep.average_statistics(SimpleNamespace(state=lambda: state))
    return np.stack([each.asnumpy() for each in state.values()])


def scaled(rank: int, ranks: int) -> dict[str, np.ndarray]:
    """Four updates in two parts each with a loss scale, on one rank or on two with half of the same batch.

    In the third, the scaled gradient of the last rank's last part is not finite. Returns the weights, the loss scale
    and whether the update was made, after each update.
    """
    from coupalign.config import load_config
    from coupalign.training.optimizer import make_optimizer
    from coupalign.training.step import TrainStep
    from tests.test_training import Quadratic, tensors

    objective = Quadratic()
    optimizer = make_optimizer(
        load_config(overrides={"learning_rate": 0.1}).training, objective.trainable_params(), 100
    )
    step = TrainStep(objective, optimizer, 0.5, 3, 2, scales_loss=True)
    random, rows = np.random.default_rng(0), []
    for number in range(4):
        images = random.standard_normal((2, 2, 3, 4))  # parts of two ranks
        if number == 2:
            images[1, 1, 0, 0] = 1e36
        own = images[rank] if ranks == 2 else images.mean(0)
        made = step.update([tensors(each, each[0]) for each in own], 0, number, (0, 3))[2]
        rows.append(
            [*objective.weight.asnumpy().reshape(-1), *step.state()["loss_scale"].asnumpy().reshape(-1), float(made)]
        )
    return {"scaled": np.array(rows)}


def train_on_several(config) -> np.ndarray:
    """Trains on several data sets. Returns the token ids that this rank was given, (samples, T)."""
    from coupalign.training import trainer
    from coupalign.training.step import TrainStep
    from tests.tiny_model import TinyModel

    update, given = TrainStep.update, []

    def record(step, batches, *more):
        batches = list(batches)
        given.extend(batch["token_ids"].asnumpy() for batch in batches)
        return update(step, batches, *more)

    trainer.build_model = lambda _: TinyModel()
    TrainStep.update = record
    trainer.train(config, progress=False)
    TrainStep.update = update
    return np.concatenate(given)


def train_with_a_stop(config) -> None:
    """Trains; only the second rank receives a signal after three steps, and then both resume."""
    from coupalign import devices
    from coupalign.training import trainer
    from coupalign.training.run_directory import RunDirectory
    from coupalign.training.stopping import Stopped
    from tests.tiny_model import TinyModel

    trainer.build_model = lambda _: TinyModel()
    log_step = RunDirectory.log_step

    def step(run: RunDirectory, figures: dict) -> None:
        log_step(run, figures)
        if figures["step"] == 3 and devices.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    RunDirectory.log_step = step
    try:
        trainer.train(config, progress=False)
    except Stopped as stopped:
        assert stopped.code == 143
    else:
        raise AssertionError("not stopped")
    RunDirectory.log_step = log_step
    trainer.train(config, progress=False)


def evaluate(config, checkpoint: Path, output: Path, writes: bool) -> None:
    """Evaluates TinyModel on val and saves the result."""
    from coupalign.checkpoints.loading import load_checkpoint
    from coupalign.data.dataset import Split
    from coupalign.evaluation.evaluate import evaluate_split
    from tests.tiny_model import TinyModel

    model = TinyModel()
    load_checkpoint(checkpoint, model)
    model.set_train(False)
    result = evaluate_split(model, config, Split(config, "val"), "val", 29, progress=False, shuffled=True)
    if writes:
        output.mkdir(parents=True)
        result.save(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
