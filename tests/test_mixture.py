"""Training on several data sets: what is left out, what an epoch takes of each, and evaluation of each."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from coupalign.commands import eval as eval_command
from coupalign.commands import train as train_command
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.mixture import training_split
from coupalign.data.prepare import prepare
from coupalign.data.refer import read_refer
from coupalign.data.tokenizer import Tokenizer
from coupalign.devices import set_up
from coupalign.errors import ConfigError, UserError
from coupalign.training import trainer
from coupalign.training.order import epoch_order
from tests.conftest import SMALLEST, read_csv
from tests.handmade_refer import Handmade, rectangle
from tests.tiny_model import TinyModel

# By data set and split, the images; each has one referent. COCO's image 1 is in train and in refcocog's val, and so on.
IMAGES = {
    "refcoco": {"train": (1, 2, 3, 4, 5), "val": (6,), "testA": (7,)},
    "refcocog": {"train": (2, 6, 7, 8), "val": (1,), "test": (3, 9)},
    "mine": {"train": (1, 2, 9), "val": (3,)},  # ids of its own
}
SENTENCES = 2  # per referent


def mixture_config(directory, names=("refcoco", "refcocog", "mine"), **overrides):
    dirs = [str(directory / name) for name in names]
    return load_config(
        overrides={**SMALLEST, "dataset": list(names), "data_dir": dirs, "batch_size": 4, "max_tokens": 12, **overrides}
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return prepare_mixture(tmp_path_factory.mktemp("mixture"))


def prepare_mixture(directory: Path) -> Path:
    """Prepares the data sets of IMAGES. An expression says where it is from: "refcoco train 1 a"."""
    tokenizer = Tokenizer("assets/bert-base-uncased-vocab.txt", 12)
    for number, (name, splits) in enumerate(IMAGES.items()):
        source = Handmade(directory / f"{name} source")
        source.instances["images"] = [
            {"id": image, "file_name": "a.jpg", "height": 40, "width": 60} for image in range(1, 10)
        ]
        source.instances["annotations"] = [
            {"id": image, "image_id": image, "category_id": 1, "segmentation": [_part(number, image)]}
            for image in range(1, 10)
        ]
        source.refs = [
            source.ref(
                image, image, image, 1, split, {2 * image + i: f"{name} {split} {image} {'ab'[i]}" for i in (0, 1)}
            )
            for split, images in splits.items()
            for image in images
        ]
        source.write()
        prepare(read_refer(source.annotations, source.images, "unc"), name, directory / name, tokenizer)
    return directory


def _part(number: int, image: int) -> list[int]:
    """A rectangle whose area says which data set and image it is of."""
    return rectangle(0, 0, 10 + 10 * number, 2 * image)


def test_images_of_other_splits_are_left_out_by_id(directory):
    split, lines = training_split(mixture_config(directory))
    # refcoco loses 1 (val of refcocog) and 3 (its test), refcocog 6 and 7 (val and testA of refcoco), mine nothing.
    expected = [("refcoco", (2, 4, 5)), ("refcocog", (2, 8)), ("mine", (1, 2, 9))]
    assert split.records["expression"].tolist() == [
        f"{name} train {image} {which}" for name, images in expected for image in images for which in "ab"
    ]
    assert [line.split(":")[0] for line in lines] == ["refcoco train", "refcocog train", "mine train"]
    assert "2 images with 4 expressions left out, which are also in refcocog val, refcocog test; 6 exp" in lines[0]
    assert "2 images with 4 expressions left out, which are also in refcoco val, refcoco testA; 4 exp" in lines[1]
    assert "0 images with 0 expressions left out; 6 exp" in lines[2]


def test_nothing_is_left_out_of_one_data_set(directory):
    split, lines = training_split(mixture_config(directory, ["refcoco"]))
    assert len(split) == 5 * SENTENCES and lines == []


def test_a_data_set_without_a_remaining_image_is_refused(directory, tmp_path):
    config = mixture_config(directory, ["refcoco", "refcocog"], train_split="testA", val_split="val")
    with pytest.raises(UserError, match="has no split 'testA'"):
        training_split(config)
    config = mixture_config(directory, ["refcoco", "refcocog"], train_split="val")
    # Of val, refcoco has image 6 and refcocog 1; both are in the other's train.
    with pytest.raises(UserError, match="all images of refcoco val are also in refcocog train: leave refcoco out"):
        training_split(config)


def test_rows_of_a_mixture_have_their_own_image_and_mask(directory):
    split, _ = training_split(mixture_config(directory))
    rows = np.array([9, 0, 15, 4, 4, 10])
    samples = list(split.samples(rows, 1))
    for row, sample in zip(rows, samples, strict=True):
        name, _, image, _ = split.records["expression"][row].split()
        number, image = list(IMAGES).index(name), int(image)
        assert sample["target"].sum() == (10 + 10 * number) * 2 * image
        np.testing.assert_array_equal(sample["token_ids"], split.records["token_ids"][row])


def _taken(split, order) -> Counter:
    return Counter(split.records["expression"][order].tolist())


def test_an_epoch_takes_each_data_set_by_its_weight(directory):
    config = mixture_config(directory)
    split, _ = training_split(config)
    orders = [epoch_order(config.training, 42, split, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    weights = (0.5, 2, 1.5)  # of 6, 4 and 6 rows
    orders = [epoch_order(config.training, 42, split, epoch, weights) for epoch in range(4)]
    for order in orders:
        assert Counter(split.records["expression"][row].split()[0] for row in order) == {
            "refcoco": 3,
            "refcocog": 8,
            "mine": 9,
        }
    # Four epochs are 2, 8 and 6 passes, which each see all rows once.
    total = _taken(split, np.concatenate(orders))
    passes = {"refcoco": 2, "refcocog": 8, "mine": 6}
    assert all(count == passes[text.split()[0]] for text, count in total.items()) and len(total) == 16
    # Two epochs at a weight of a half are one pass.
    assert set(_taken(split, np.concatenate(orders[:2])).values()) == {1, 4, 3}
    again = [epoch_order(config.training, 42, training_split(config)[0], epoch, weights) for epoch in (2, 0)]
    np.testing.assert_array_equal(again[0], orders[2])
    np.testing.assert_array_equal(again[1], orders[0])
    other = epoch_order(config.training, 43, split, 0, weights)
    assert not np.array_equal(other, orders[0])
    with pytest.raises(UserError, match="data_weights is 0.01 for a data set of 6 samples, .* give at least 0.2"):
        epoch_order(config.training, 42, split, 0, (0.01, 1, 1))


def test_random_sentences_are_one_per_referent_of_each_data_set(directory):
    config = mixture_config(directory, train_sentences="random")
    split, _ = training_split(config)
    taken = _taken(split, epoch_order(config.training, 42, split, 0))
    assert sorted(text[:-2] for text in taken) == sorted({text[:-2] for text in split.records["expression"].tolist()})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dataset": "refcoco"}, "dataset names 1 data sets and data_dir 3: give one name per directory"),
        ({"dataset": ["refcoco", "mine", "mine"]}, "name each data set once"),
        ({"data_weights": [1, 2]}, "give one weight per directory, or none"),
        ({"data_weights": [1, 2, 0]}, "data_weights is .*: expected a list, each a number above 0"),
        ({"data_dir": []}, "data_dir is .*: expected a string .*or a list of these"),
    ],
)
def test_lists_that_do_not_fit_are_refused(directory, overrides, message):
    with pytest.raises(ConfigError, match=message):
        mixture_config(directory, **overrides)


def test_a_list_is_read_from_a_file_and_a_command_line(directory, tmp_path):
    config = mixture_config(directory, data_weights=[1, 0.5, 2])
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    joined = {key: ",".join(map(str, config.as_dict()[key])) for key in ("dataset", "data_dir", "data_weights")}
    assert load_config(overrides={**config.as_dict(), **joined}) == config
    chosen = load_config(tmp_path / "config.yaml", {"dataset": "mine", "data_dir": str(directory / "mine")})
    assert len(Split(chosen, "val")) == SENTENCES
    with pytest.raises(UserError, match=r"several data sets \(refcoco, refcocog, mine\): choose one with --dataset"):
        Split(config, "val")


def test_each_data_set_is_evaluated_on_the_splits_that_it_has(directory, checkpoint, tmp_path, capsys):
    config = mixture_config(directory, eval_splits=["val", "testA", "test"])
    config.save(tmp_path / "config.yaml")
    arguments = ["--config", str(tmp_path / "config.yaml"), "--checkpoint", str(checkpoint), "--output"]
    assert eval_command.main([*arguments, str(tmp_path / "eval")]) == 0
    out = capsys.readouterr().out
    for name, splits in IMAGES.items():
        found = sorted(path.stem for path in (tmp_path / "eval" / name).glob("*.json"))
        assert found == sorted(set(splits) - {"train"})
        for split in found:
            result = json.loads((tmp_path / "eval" / name / f"{split}.json").read_text())
            assert (result["dataset"], result["config"]["data_dir"]) == (name, str(directory / name))
            assert result["samples"] == SENTENCES * len(splits[split])
    assert "mine has no split testA" in out and "refcocog has no split val" not in out
    wrong = [*arguments, str(tmp_path / "other"), "--eval_splits"]
    assert eval_command.main([*wrong, "val,testC"]) == 2
    assert "has a split 'testC'" in capsys.readouterr().err
    assert eval_command.main([*wrong, "testA,test"]) == 2
    assert "mine has no split of eval_splits (testA, test): it has train, val" in capsys.readouterr().err


def test_every_data_set_is_checked_before_anything_starts(directory, tmp_path, capsys):
    config = mixture_config(directory, output_dir=str(tmp_path / "run"), warmup_steps=0)
    config.save(tmp_path / "config.yaml")
    check = ["--config", str(tmp_path / "config.yaml"), "--check", "1"]
    assert train_command.main(check) == 0
    assert train_command.main([*check, "--batch_size", "24"]) == 0  # of 10, 8 and 6 samples with every image
    wrong = {
        "--batch_size 25": "has 24 samples, fewer than batch_size 25",
        "--data_weights 1,1,0.5 --batch_size 24": "has 21 samples",
        "--val_split testA": "refcocog has no split 'testA'",
        "--dataset refcocog,refcoco,mine": "was prepared as dataset refcoco, but dataset is refcocog",
        "--dataset refcoco,other": "dataset names 2 data sets and data_dir 3",
    }
    for arguments, message in wrong.items():
        assert train_command.main([*check, *arguments.split()]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_on_several_data_sets_goes_on_where_it_stopped(directory, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "build_model", lambda _: TinyModel())

    def run(name: str, **overrides):
        keys = {"data_weights": [1, 2, 0.5], "epochs": 2, "decay_epochs": 1, "output_dir": str(tmp_path / name)}
        config = mixture_config(directory, **{**keys, "tracker": "none", "aux_loss_weight": 0.0, **overrides})
        set_up(config.run)
        return trainer.train(config, progress=False)

    with caplog.at_level("INFO"):
        whole = read_csv(run("whole") / "steps.csv")
    assert "refcoco train: 2 images with 4 expressions left out" in caplog.text
    assert "oIoU on val: refcoco" in caplog.text
    assert len(whole) == 2 * 4  # 6 + 8 + 3 samples in batches of 4
    run("parts", epochs=1)
    with pytest.raises(UserError, match="data_weights is .*, but was"):
        run("parts", resume="auto", data_weights=[1, 2, 1])
    parts = read_csv(run("parts", resume="auto") / "steps.csv")
    assert [row["loss"] for row in parts] == [row["loss"] for row in whole]
    for row in read_csv(tmp_path / "parts/curve.csv"):
        assert 0 <= float(row["oIoU"]) <= 1
