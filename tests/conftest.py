"""What the tests share: the smallest model that runs, Cells with random weights, and one way to compare.

``from tests.conftest import TINY, assert_close``; the others are fixtures.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before MindSpore is imported anywhere: its warnings would bury what a failing test prints.
os.environ.setdefault("GLOG_v", "3")
os.environ["MS_COMPILER_CACHE_ENABLE"] = "0"  # no graph of an earlier test, see inference/graph_cache.py
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")  # as coupalign.devices does
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as coupalign.cli does

import hypothesis
import numpy as np
import pytest
from PIL import Image

from coupalign.config import Config, load_config

hypothesis.settings.register_profile("tests", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("tests")

TINY = {
    "image_size": 64,
    "max_tokens": 8,
    "num_workers": 1,
    "swin_embed_dim": 8,
    "swin_depths": [1, 2, 1, 1],
    "swin_num_heads": [1, 2, 2, 4],
    "swin_window_size": 4,
    "bert_num_layers": 4,
    "bert_hidden_size": 16,
    "bert_num_heads": 2,
    "bert_max_positions": 16,
    "wpa_dim": 8,
    "cross_attention_heads": 2,
    "num_queries": 5,
    "decoder_dim": 8,
    "decoder_heads": 2,
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "seg_head_dim": 12,
    "batch_size": 2,
    "eval_batch_size": 4,
}
# One block and one layer of everything, where shifted windows are not the point: it compiles in half the time.
SMALLEST = {**TINY, "swin_depths": [1, 1, 1, 1], "decoder_layers": 1}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the files that have the most slow tests: processes that share the files then end together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def refshapes_config(data_dir: str | Path, **overrides: Any) -> Config:
    """The smallest model on the RefShapes data set in `data_dir`."""
    return load_config(overrides={**SMALLEST, "dataset": "refshapes", "data_dir": str(data_dir), **overrides})


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a table by the names in its first line."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def noise(height: int, width: int) -> np.ndarray:
    """An image, (height, width, 3) uint8."""
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def refuses(tmp_path, capfd):
    """``refuses(main, arguments)``: the line that a command prints for a mistake; no file of tmp_path may change."""

    def run(main: Any, arguments: list[str]) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main([str(each) for each in arguments]) == 2
        out, err = capfd.readouterr()
        assert not out and err.startswith("error: ") and err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return run


@pytest.fixture
def photos(tmp_path) -> Path:
    """A directory with desk.jpg and room.png, 40 x 60 pixels."""
    directory = tmp_path / "photos"
    directory.mkdir()
    for name in ("desk.jpg", "room.png"):
        Image.new("RGB", (60, 40), "grey").save(directory / name)
    return directory


@pytest.fixture
def tiny_config() -> Config:
    """The smallest model that runs and still has everything: shifted windows, all alignments, several layers."""
    return load_config(overrides=TINY)


def assert_close(actual: Any, expected: Any, relative: float) -> None:
    """Same shape, finite, and no element further off than `relative` times the largest magnitude expected."""
    actual = np.asarray(actual.asnumpy() if hasattr(actual, "asnumpy") else actual, np.float64)
    expected = np.asarray(expected.asnumpy() if hasattr(expected, "asnumpy") else expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape} instead of {expected.shape}"
    assert np.isfinite(actual).all(), "not finite"
    scale, difference = np.abs(expected).max(), np.abs(actual - expected).max()
    assert difference <= relative * scale, f"off by {difference:.3g} at a scale of {scale:.3g} (allowed {relative:g})"


class RandomCell:
    """A Cell to call with NumPy arrays: float64 goes in as float32, integers as int32, and NumPy comes out."""

    def __init__(self, cell: Any):
        self.cell = cell

    def __call__(self, *arrays: np.ndarray) -> Any:
        from mindspore import Tensor

        inputs = [Tensor(array.astype(np.int32 if array.dtype.kind in "iub" else np.float32)) for array in arrays]
        return _arrays(self.cell(*inputs))


@pytest.fixture
def random_cell():
    """``cell, weights, x = random_cell(Cell(…), inputs=(2, 5, 8))``, or ``inputs=[(2, 5, 8), (2, 3)]`` for a list of x.

    Sets every parameter, norms' scales, shifts and moving statistics included, to seeded random values, so that no
    term is hidden by a 0 or a 1. Returns a ``RandomCell`` in evaluation mode, its weights by name and its inputs, both
    float64 with values that float32 holds exactly.
    """

    def make(cell: Any, inputs: tuple[int, ...] | list[tuple[int, ...]], seed: int = 0):
        from mindspore import Tensor

        random = np.random.default_rng(seed)
        weights = {}
        for name, parameter in cell.parameters_dict().items():
            value = random.standard_normal(parameter.shape)
            if name.endswith(("gamma", "moving_variance")):
                value = 0.5 + random.random(parameter.shape)
            elif len(parameter.shape) > 1:
                value /= np.sqrt(np.prod(parameter.shape[1:]))
            weights[name] = value.astype(np.float32).astype(np.float64)
            parameter.set_data(Tensor(weights[name].astype(np.float32)))
        shapes = inputs if isinstance(inputs, list) else [inputs]
        arrays = [random.standard_normal(shape).astype(np.float32).astype(np.float64) for shape in shapes]
        return RandomCell(cell.set_train(False)), weights, arrays if isinstance(inputs, list) else arrays[0]

    return make


def _arrays(outputs: Any) -> Any:
    if isinstance(outputs, (tuple, list)):
        return tuple(_arrays(output) for output in outputs)
    return outputs.asnumpy() if hasattr(outputs, "asnumpy") else outputs


@pytest.fixture(autouse=True, scope="module")
def _mode_of_file():
    """As `_mode`, for what a file's shared fixtures set up."""
    yield from _restored()


@pytest.fixture(autouse=True)
def _signals():
    """Unblocks signals that train.py blocked for its process. Processes that tests start would inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture(autouse=True)
def _mode(_mode_of_file):
    """Puts MindSpore back into the mode it was in, which the programs' ``set_up`` changes."""
    yield from _restored()


def _restored() -> Iterator[None]:
    before = _current_mode()
    yield
    after = _current_mode()
    if after is not None and before != after:
        import mindspore

        mindspore.set_context(mode=mindspore.PYNATIVE_MODE if before is None else before)


def _current_mode() -> int | None:
    mindspore = sys.modules.get("mindspore")
    return mindspore.get_context("mode") if mindspore else None


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """``make_checkpoint(config)`` writes random weights and the configuration beside them; gives the .ckpt's path.

    Norms have random statistics; logits vary enough for masks that are neither empty nor full.
    """

    from benchmarks.random_checkpoint import write_random_checkpoint

    return lambda config: write_random_checkpoint(config, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint):
    """A checkpoint of ``SMALLEST`` with random weights."""
    return make_checkpoint(load_config(overrides=SMALLEST))


@pytest.fixture(scope="session")
def refshapes(tmp_path_factory):
    """The source files of RefShapes with 400 expressions in train."""
    from coupalign.refshapes import RefShapesSettings, write_refshapes
    from tests.refshapes_files import Files

    directory = tmp_path_factory.mktemp("refshapes") / "source"
    write_refshapes(directory, RefShapesSettings(expressions=400, seed=11))
    return Files(directory)


@pytest.fixture(scope="session")
def generalised(tmp_path_factory):
    """As `refshapes`, of the same seed, with expressions that name several objects or none."""
    from coupalign.refshapes import RefShapesSettings, write_refshapes
    from tests.refshapes_files import Files

    directory = tmp_path_factory.mktemp("generalised") / "source"
    write_refshapes(directory, RefShapesSettings(expressions=400, seed=11, generalised=True))
    return Files(directory)


@pytest.fixture
def handmade(tmp_path):
    """A REFER data set made by hand in tmp_path/source; ``write`` writes its annotations."""
    from tests.handmade_refer import Handmade

    return Handmade(tmp_path / "source")


@pytest.fixture
def prepare_arguments(handmade, tmp_path) -> list[str]:
    """Arguments with which prepare_data.py prepares `handmade`, which is written, in tmp_path/data."""
    handmade.write()
    source = ["--annotations", str(handmade.annotations), "--images", str(handmade.images)]
    return ["--dataset", "refcoco", *source, "--output", str(tmp_path / "data")]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Directory of a RefShapes data set of 300 expressions, 30 in each split but train, for ``TINY``."""
    from coupalign.data.tokenizer import Tokenizer
    from coupalign.refshapes.writer import RefShapesSettings, prepare_refshapes

    directory = tmp_path_factory.mktemp("data")
    config = load_config(overrides={**TINY, "dataset": "refshapes"})
    tokenizer = Tokenizer(config.data.vocab_file, config.model.max_tokens)
    prepare_refshapes(directory, RefShapesSettings(300, config.run.seed), tokenizer)
    return directory
