"""Two ranks on the CPU, started by msrun once for all tests here, compared with one process and with PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mindspore
import numpy as np
import pytest
import torch

from coupalign import devices
from coupalign.config import load_config
from coupalign.data.mixture import training_split
from coupalign.devices import set_up
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.files import REPOSITORY
from coupalign.training import trainer
from tests.conftest import assert_close, read_csv, refshapes_config
from tests.test_evaluate import SAMPLES, FakeSplit, Forward, config
from tests.test_mixture import mixture_config, prepare_mixture
from tests.tiny_model import TinyModel
from tests.two_ranks import batch, evaluate, scaled

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def ranks(tiny_data, tmp_path_factory):
    """(directory with the results of two ranks, configuration)."""
    directory = tmp_path_factory.mktemp("ranks")
    keys = {"epochs": 1, "decay_epochs": 1, "batch_size": 50, "learning_rate": 2e-3, "eval_limit": 4}
    settings = refshapes_config(tiny_data, **keys, resume="auto", output_dir=str(directory / "trained"))
    settings.save(directory / "config.yaml")
    # An epoch takes 3, 4 and 3 of 6, 4 and 6 rows.
    keys = {"batch_size": 2, "data_weights": [0.5, 1, 0.5], "epochs": 2, "decay_epochs": 1, "aux_loss_weight": 0.0}
    keys |= {"output_dir": str(directory / "mixed"), "eval_batch_size": 1, "tracker": "none"}
    mixture_config(prepare_mixture(directory / "mixture"), **keys).save(directory / "mixture.yaml")
    mindspore.set_seed(3)
    mindspore.save_checkpoint(TinyModel(), str(directory / "best.ckpt"))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}/src{os.pathsep}{REPOSITORY}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    own = ["--worker_num=2", "--local_worker_num=2", f"--master_port={20000 + os.getpid() % 10000}"]
    own += ["--cluster_time_out=300", f"--log_dir={directory}", "--join=True", str(REPOSITORY / "scripts/rank.py")]
    job = subprocess.run(
        ["msrun", *own, str(directory), "-m", "tests.two_ranks", str(directory)],
        cwd=REPOSITORY,
        env=environment,
        timeout=240,
        capture_output=True,
        text=True,
    )
    ends = [(directory / f"worker_{rank}.log").read_text()[-3000:] for rank in (0, 1)]
    assert job.returncode == 0, "\n".join([job.stderr[-1000:], *ends])
    assert sorted((directory / "codes").read_text().splitlines()) == ["worker_0 0", "worker_1 0"]
    return directory, settings


def values_by_rank(directory: Path, name: str) -> np.ndarray:
    return np.concatenate([np.load(directory / f"rank_{rank}.npz")[name][None] for rank in (0, 1)])


def test_sums_over_ranks_are_exact(ranks):
    directory, _ = ranks
    numbers = np.array([[2**62, -1], [3, 2**24 + 1]])
    assert (values_by_rank(directory, "total") == numbers + numbers // 2).all()
    assert (values_by_rank(directory, "sum") == np.float32([0.2, 1.0])).all()
    assert (values_by_rank(directory, "largest") == -5).all()


def test_an_overflow_that_only_one_rank_sees_is_known_to_both(ranks):
    """As on Ascend in saturation mode, where it leaves no trace in the averaged gradients."""
    assert values_by_rank(ranks[0], "finite").tolist() == [False, False]


def test_synchronised_batch_norm_equals_that_of_the_whole_batch(ranks):
    directory, _ = ranks
    x, weight, *values = (torch.from_numpy(each).double() for each in batch())
    norm = torch.nn.BatchNorm2d(3).double()
    norm.load_state_dict(dict(zip(("weight", "bias", "running_mean", "running_var"), values)), strict=False)
    x.requires_grad_()
    y = norm(x)
    (y * weight).sum().backward()
    expected = {"y": y, "dx": x.grad, "evaluated": norm.eval()(x)}
    for name, each in expected.items():
        assert_close(np.concatenate(values_by_rank(directory, name)), each.detach().numpy(), relative=1e-5)
    for name, each in {"dgamma": norm.weight.grad, "dbeta": norm.bias.grad}.items():
        assert_close(values_by_rank(directory, name).sum(0), each.numpy(), relative=1e-5)
    for name, each in {"moving_mean": norm.running_mean, "moving_variance": norm.running_var}.items():
        for rank in (0, 1):
            assert_close(values_by_rank(directory, name)[rank], each.numpy(), relative=1e-5)


def test_local_statistics_are_replaced_by_their_mean(ranks):
    for rank, found in enumerate(values_by_rank(ranks[0], "shared")):
        assert found.tolist() == [[1.5, 2.5], [1.5, 2.5], [1.0 + rank, 5.0 * rank]]


def test_an_overflow_on_one_rank_is_skipped_by_both(ranks):
    """With accumulation and a loss scale; the other updates are those of one process."""
    first, second = values_by_rank(ranks[0], "scaled")
    np.testing.assert_array_equal(first, second)
    assert first[:, -1].tolist() == [1, 1, 0, 1] and first[:, -2].tolist() == [1024, 1024, 512, 512]
    np.testing.assert_array_equal(first[1, :-2], first[2, :-2])
    assert_close(first, scaled(0, 1)["scaled"], relative=1e-5 / 1024)


def test_two_ranks_train_like_one_process_even_if_one_is_stopped(ranks, tmp_path, monkeypatch):
    directory, settings = ranks
    monkeypatch.setattr(trainer, "build_model", lambda _: TinyModel())
    alone = load_config(overrides={**settings.as_dict(), "output_dir": str(tmp_path / "alone")})
    set_up(alone.run)
    trainer.train(alone, progress=False)
    one, two = (
        np.array([list(map(float, row.values())) for row in read_csv(path / "steps.csv")])
        for path in (tmp_path / "alone", directory / "trained")
    )
    assert one.shape == two.shape == (6, 6)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert re.search("stopped by SIGTERM after step [345], saved", (directory / "worker_0.log").read_text())
    assert "stopped" not in (directory / "worker_1.log").read_text(), "only rank 0 prints"


def test_two_ranks_evaluate_like_one_process(ranks, tmp_path):
    directory, settings = ranks
    set_up(settings.run)
    evaluate(settings, directory / "best.ckpt", tmp_path / "alone", writes=True)
    files = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert files == ["val.csv", "val.json"]
    for name in files:
        assert (tmp_path / "alone" / name).read_bytes() == (directory / "evaluated" / name).read_bytes()
    intersections = [int(row["intersection"]) for row in read_csv(tmp_path / "alone/val.csv")]
    assert len(intersections) == 29 and len(set(intersections)) > 5


def test_two_ranks_share_what_an_epoch_takes_of_each_data_set(ranks):
    directory, _ = ranks
    split, _ = training_split(load_config(directory / "mixture.yaml"))
    expressions = {row.tobytes(): text for row, text in zip(split.records["token_ids"], split.records["expression"])}
    drawn = [[expressions[row.tobytes()] for row in each] for each in values_by_rank(directory, "mixed")]
    assert [len(each) for each in drawn] == [10, 10]  # in two epochs
    epochs = [[text for each in drawn for text in each[start : start + 5]] for start in (0, 5)]
    for texts in epochs:
        assert len(set(texts)) == 10, "no sample twice in an epoch"
        assert Counter(text.split()[0] for text in texts) == {"refcoco": 3, "refcocog": 4, "mine": 3}
    both = Counter(text for texts in epochs for text in texts)
    assert len(both) == len(expressions) == 16  # at a weight of a half, two epochs are one pass
    assert {text.split()[0]: count for text, count in both.items()} == {"refcoco": 1, "refcocog": 2, "mine": 1}


def test_two_ranks_evaluate_each_data_set_like_one_process(ranks, tmp_path):
    directory, _ = ranks
    config = load_config(directory / "mixture.yaml")
    set_up(config.run)
    for each in config.data_sets():
        evaluate(each, directory / "best.ckpt", tmp_path / each.data.name, writes=True)
        for name in ("val.csv", "val.json"):
            found = (directory / "mixed_evaluated" / each.data.name / name).read_bytes()
            assert found == (tmp_path / each.data.name / name).read_bytes()
        assert len(read_csv(tmp_path / each.data.name / "val.csv")) == 2


@pytest.mark.parametrize(("count", "size"), [(2, 3), (3, 4), (5, 1), (12, 4), (2, 16)])
def test_every_sample_is_evaluated_by_exactly_one_rank(monkeypatch, tmp_path, count, size):
    settings, counts, between = config(eval_batch_size=size), [], []
    evaluate_split(Forward(), settings, FakeSplit(), "val", progress=False, shuffled=True).save(tmp_path)
    monkeypatch.setattr(devices, "all_reduce_sum", lambda each: counts.append(each.copy()) or np.ones_like(each))
    named = {"progress": False, "shuffled": True, "on_batch_end": lambda: between.append(devices.rank())}
    for rank in range(count):
        monkeypatch.setattr(devices, "_ranks", (rank, count))
        evaluate_split(Forward(), settings, FakeSplit(), "val", **named)
    own, _, shuffled = np.stack(counts, 1)  # the second is for models with existence
    for each in (own, shuffled):
        assert (np.count_nonzero(each[:, :, 1], 0) == 1).all()
    expected = [[int(row["intersection"]), int(row["union"])] for row in read_csv(tmp_path / "val.csv")]
    assert own.sum(0)[:, :2].tolist() == expected
    assert between == sorted(SAMPLES // (size * count) * list(range(count)))
