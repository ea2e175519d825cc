"""The cache of compiled graphs: other processes compute the same with it, and it notices what has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from mindspore import Tensor, load_checkpoint, save_checkpoint

from coupalign.config import load_config
from coupalign.files import REPOSITORY, cache_directory
from tests.conftest import SMALLEST

PROGRAM = """
import sys
import mindspore
import numpy as np
from mindspore import Tensor, nn
from coupalign import Predictor
from coupalign.config import load_config

checkpoint, output, keys, batches = sys.argv[1:]
config = load_config(checkpoint.replace("best.ckpt", "config.yaml"), eval(keys))
predictor = Predictor(checkpoint, config=config, keep_graph=True)
image = np.random.default_rng(0).integers(0, 255, (70, 90, 3)).astype(np.uint8)
with open(output, "wb") as file:
    for batch in eval(batches):
        for each in predictor.predict_batch([image] * batch, ["red circle", "left square"][:batch], batch):
            np.save(file, each.probability)
        # A graph of another kind afterwards: an update of a dense layer.
        layer = nn.Dense(3, 2, "ones", "zeros")
        training = nn.TrainOneStepCell(nn.WithLossCell(layer, nn.MSELoss()), nn.SGD(layer.trainable_params(), 0.1))
        training(Tensor(np.ones((1, 3), np.float32)), Tensor(np.zeros((1, 2), np.float32)))
        assert layer.weight.asnumpy().max() < 1
        np.save(file, layer.weight.asnumpy())
"""


@pytest.fixture
def predict(checkpoint, tmp_path):
    """``predict(cached, batches, weights, keys)`` predicts in a new process and returns the probabilities as bytes."""
    program, output = tmp_path / "program.py", tmp_path / "probabilities"
    program.write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "coupalign").mkdir()
    for kernels in cache_directory().glob("kernels-*.so"):
        (tmp_path / "coupalign" / kernels.name).symlink_to(kernels)

    def run(cached=True, batches=(1,), weights=checkpoint, **keys):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "src")}
        if cached:
            del environment["MS_COMPILER_CACHE_ENABLE"]
        command = [sys.executable, str(program), str(weights), str(output), repr(keys), repr(batches)]
        subprocess.run(command, env=environment, check=True)
        return output.read_bytes()

    return run


@pytest.fixture
def other_weights(checkpoint, tmp_path):
    """The same model with weights of half the size."""
    directory = tmp_path / "other"
    shutil.copytree(checkpoint.parent, directory)
    parameters = load_checkpoint(str(checkpoint))
    halves = [{"name": name, "data": Tensor(each.asnumpy() / 2)} for name, each in parameters.items()]
    save_checkpoint(halves, str(directory / "best.ckpt"))
    return directory / "best.ckpt"


def graphs(tmp_path):
    return {each: each.stat().st_mtime_ns for each in (tmp_path / "coupalign/graphs").rglob("*.mindir")}


@pytest.mark.slow
def test_a_graph_is_read_again_unless_something_changed(predict, other_weights, tmp_path):
    several = predict(cached=False, batches=(1, 2))
    assert not graphs(tmp_path)
    wanted = predict()
    assert several.startswith(wanted)
    (first,) = written = graphs(tmp_path)
    assert predict(batches=(1, 2)) == several and graphs(tmp_path) == written
    others = predict(weights=other_weights)
    assert others == predict(cached=False, weights=other_weights) != wanted
    assert graphs(tmp_path) == written
    # A key that is a constant of the graph, and no parameter.
    assert load_config(overrides=SMALLEST).model.sma_temperature != 0.5
    assert predict(sma_temperature=0.5) == predict(cached=False, sma_temperature=0.5) != wanted
    assert len(graphs(tmp_path)) == 2
    first.chmod(0o600)
    first.write_bytes(first.read_bytes()[:-100])
    assert predict() == wanted and graphs(tmp_path).keys() >= {first}
    assert first.stat().st_mtime_ns != written[first]
    # A cache that others could write to.
    directory = tmp_path / "coupalign/graphs"
    assert directory.stat().st_mode & 0o077 == 0
    shutil.rmtree(directory)
    directory.mkdir()
    directory.chmod(0o777)
    assert predict() == wanted and not graphs(tmp_path)
