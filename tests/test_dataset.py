"""Pipelines over prepared splits, against the source files read with OpenCV and NumPy."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.images import load_image
from coupalign.data.prepare import prepare
from coupalign.data.prepared import check_objects
from coupalign.data.refer import read_refer
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image
from coupalign.errors import UserError
from tests.conftest import TINY
from tests.handmade_refer import Handmade

SIZE = 64


@pytest.fixture(scope="module")
def handmade(tmp_path_factory) -> Handmade:
    data = Handmade(tmp_path_factory.mktemp("source"))
    data.write()
    return data


@pytest.fixture(scope="module")
def config(handmade, tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    config = load_config(overrides={**TINY, "dataset": "refcoco", "data_dir": str(directory), "image_size": SIZE})
    dataset = read_refer(handmade.annotations, handmade.images, "unc")
    prepare(dataset, "refcoco", directory, Tokenizer(config.data.vocab_file, config.model.max_tokens))
    return config


def _with(config, **overrides):
    return load_config(overrides={**config.as_dict(), **overrides})


def _expected(handmade, split: Split, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (3, S, S) float64, target (h, w), input target (S, S)."""
    records = split.records
    rgb, mask = handmade.pixels[records["image_id"][row]], handmade.masks[records["ann_id"][row]]
    resized = cv2.resize(rgb, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) / 255
    image = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # Nearest neighbour by its definition: output pixel i takes input pixel floor(i * size / S).
    rows, columns = (np.arange(SIZE) * side // SIZE for side in mask.shape)
    return image.transpose(2, 0, 1), mask, mask[np.ix_(rows, columns)]


@pytest.mark.parametrize("workers", [1, 2, 999])
def test_samples_equal_the_files_in_the_requested_order(config, handmade, workers):
    split = Split(config, "train")
    samples = [sample for order in ([2, 0, 1], [1, 2, 1, 1, 0]) for sample in split.samples(order, workers)]
    for row, sample in zip([2, 0, 1, 1, 2, 1, 1, 0], samples, strict=True):
        image, target, input_target = _expected(handmade, split, row)
        np.testing.assert_allclose(sample["image"], image, atol=1e-5)
        np.testing.assert_array_equal(sample["target"], target)
        np.testing.assert_array_equal(sample["input_target"], input_target)
        np.testing.assert_array_equal(sample["token_ids"], split.records["token_ids"][row])
        np.testing.assert_array_equal(sample["token_mask"], split.records["token_mask"][row])
        assert sample["image"].dtype == np.float32
        assert sample["target"].dtype == sample["input_target"].dtype == np.bool_
        assert sample["token_ids"].dtype == sample["token_mask"].dtype == np.int32


def test_prepared_image_equals_the_pipeline_bit_for_bit(config, handmade):
    for name, file in (("train", "a.jpg"), ("val", "b.png")):
        split = Split(config, name)
        sample = next(iter(split.samples([0], 1)))
        np.testing.assert_array_equal(prepare_image(load_image(handmade.images / file), SIZE), sample["image"])


def test_train_batches_keep_the_order_and_leave_out_what_is_no_full_batch(config, handmade):
    split = Split(config, "train")
    order = [2, 0, 1]
    data = split.train_batches(order, 2, 2)
    assert data.get_col_names() == ["image", "token_ids", "token_mask", "mask"], "in the model's order"
    batches = list(data.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert [len(batch["image"]) for batch in batches] == [2]
    for position, row in enumerate(order[:2]):
        batch = {name: column[position % 2] for name, column in batches[position // 2].items()}
        image, _, input_target = _expected(handmade, split, row)
        np.testing.assert_allclose(batch["image"], image, atol=1e-5)
        np.testing.assert_array_equal(batch["mask"], input_target.astype(np.float32))
        np.testing.assert_array_equal(batch["token_ids"], split.records["token_ids"][row])
        np.testing.assert_array_equal(batch["token_mask"], split.records["token_mask"][row])
    kinds = [batches[0][name].dtype for name in ("image", "mask", "token_ids", "token_mask")]
    assert kinds == [np.float32, np.float32, np.int32, np.int32]


def test_train_batches_with_the_masks_of_all_objects(config, handmade):
    """Image 7 has objects 3, 1 and 2, by size."""
    data = Split(config, "train").train_batches([2, 0, 1], 3, 2, objects=2)
    (batch,) = data.create_dict_iterator(num_epochs=1, output_numpy=True)
    for found in batch["objects"]:
        assert found.shape == (2, SIZE // 4, SIZE // 4) and found.dtype == np.float32
        for each, ann_id in zip(found, (3, 1)):
            mask = handmade.masks[ann_id]
            for side in (128, SIZE // 4):  # the stored size, then that of the proposals
                y, x = (np.arange(side) * length // side for length in mask.shape)
                mask = mask[np.ix_(y, x)]
            np.testing.assert_array_equal(each, mask)


def test_a_data_set_without_the_masks_of_all_objects_is_refused_where_they_are_used(config, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(config.data.data_dir, copy)
    for part in copy.glob("*.objects.*"):
        part.unlink()
    meta = json.loads((copy / "meta.json").read_text())
    meta["files"] = {name: size for name, size in meta["files"].items() if ".objects." not in name}
    (copy / "meta.json").write_text(json.dumps(meta))
    check_objects(_with(config, data_dir=str(copy)), "train")
    with pytest.raises(UserError, match="run prepare_data.py again"):
        check_objects(_with(config, data_dir=str(copy), object_loss_weight=1.0), "train")
    assert "objects" not in next(iter(Split(_with(config, data_dir=str(copy)), "train").samples([0], 1)))


def test_many_rows_stay_in_order_with_several_workers(tiny_data):
    split = Split(load_config(overrides={**TINY, "dataset": "refshapes", "data_dir": str(tiny_data)}), "train")
    order = np.random.Generator(np.random.PCG64([1, 2])).permutation(len(split))
    batches = split.train_batches(order, 10, 4).create_dict_iterator(num_epochs=1, output_numpy=True)
    seen = np.concatenate([batch["token_ids"] for batch in batches])
    np.testing.assert_array_equal(seen, split.records["token_ids"][order])


def test_indices(config):
    split = Split(config, "train")  # referent 20 has rows 0 and 1, referent 21 row 2
    assert len(split) == 3
    assert split.indices("all").tolist() == [0, 1, 2]
    assert split.indices("first").tolist() == [0, 2]
    drawn = {tuple(split.indices("random", seed)) for seed in range(20)}
    assert drawn == {(0, 2), (1, 2)}
    assert split.indices("random", 3).tolist() == split.indices("random", 3).tolist()
    assert Split(config, "val").indices("first").tolist() == [0]
    with pytest.raises(ValueError, match="best"):
        split.indices("best")


def test_splits_that_cannot_be_opened_name_the_remedy(config, tmp_path):
    with pytest.raises(UserError, match=r"has no split 'test': it has train, val"):
        Split(config, "test")
    with pytest.raises(UserError, match=r"max_tokens 8, the configuration says 9: .* --max_tokens 9"):
        Split(_with(config, max_tokens=9), "val")
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ndog\n")
    with pytest.raises(UserError, match="another vocabulary than .*--vocab_file"):
        Split(_with(config, vocab_file=str(vocabulary)), "val")
    with pytest.raises(UserError, match=r"meta\.json is missing or broken, .*prepare_data\.py"):
        Split(_with(config, data_dir=str(tmp_path)), "val")


def test_incomplete_data_name_the_remedy(config, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(config.data.data_dir, copy)
    moved = _with(config, data_dir=str(copy))
    assert len(list(Split(moved, "val").samples([0, 1], 1))) == 2
    with open(copy / "val.masks.mindrecord", "ab") as file:
        file.write(b"more")
    with pytest.raises(
        UserError, match=r"val\.masks\.mindrecord is missing, or not the file that was made: run prepare"
    ):
        Split(moved, "val")
    (copy / "train.images.mindrecord.db").unlink()
    with pytest.raises(UserError, match=r"train\.images\.mindrecord\.db is missing"):
        Split(moved, "train")
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps({**meta, "format": 0}))
    with pytest.raises(UserError, match="another version"):
        Split(moved, "train")
    (copy / "meta.json").write_text("{")
    with pytest.raises(UserError, match="meta.json is missing or broken"):
        Split(moved, "train")


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"dataset": "refcoco"}, "was prepared as dataset refshapes.*set --dataset refshapes"),
        ({"bert_vocab_size": 3000}, "has word piece [0-9]+, beyond the model's: set bert_vocab_size above it"),
    ],
)
def test_data_of_another_name_or_of_unknown_words_are_refused(tiny_data, overrides, message):
    config = load_config(overrides={**TINY, "dataset": "refshapes", "data_dir": str(tiny_data), **overrides})
    with pytest.raises(UserError, match=message):
        Split(config, "train")
