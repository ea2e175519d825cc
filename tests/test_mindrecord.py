"""The rows of a MindRecord, read with MindSpore's own reader."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from mindspore.mindrecord import FileReader

from src.data.mindrecord import split_files, write_split
from src.data.refer import read_refer
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from tests.handmade_refer import Handmade, rectangle

TOKENIZER = Tokenizer("assets/bert-base-uncased-vocab.txt", 10)


def _write(handmade: Handmade, directory, split: str) -> tuple[list[dict], dict]:
    """Rows as written, and the numbers that the data set counts for the split."""
    handmade.write()
    dataset = read_refer(handmade.annotations, handmade.images, "unc")
    write_split(directory, split, dataset, TOKENIZER)
    counts = dataset.counts(split)
    reader = FileReader(str(directory / f"{split}.mindrecord"))
    rows = list(reader.get_next())
    reader.close()
    return rows, counts


@pytest.fixture
def handmade(tmp_path) -> Handmade:
    return Handmade(tmp_path / "source")


def test_every_sentence_of_every_referent_is_a_row_in_order(handmade, tmp_path):
    rows, counts = _write(handmade, tmp_path, "train")
    assert [(row["ref_id"], row["sent_id"], row["expression"]) for row in rows] == [
        (20, 200, "the left cup"), (20, 201, "upper cup"), (21, 210, "cup that is on top of the other one")]
    assert counts == {"images": 1, "referents": 2, "expressions": 3}
    assert {(row["image_id"], row["ann_id"], row["category"], row["family"], row["height"], row["width"])
            for row in rows} == {(7, 1, "cup", "", 40, 60)}


def test_image_is_the_file_and_mask_the_annotation(handmade, tmp_path):
    for split, name, ann_id in (("train", "a.jpg", 1), ("val", "b.png", 4)):
        for row in _write(handmade, tmp_path, split)[0]:
            assert bytes(row["image"]) == (handmade.images / name).read_bytes()
            mask = cv2.imdecode(np.frombuffer(row["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(mask, handmade.masks[ann_id] * np.uint8(255))


def test_words_are_the_tokenizers(handmade, tmp_path):
    rows, _ = _write(handmade, tmp_path, "val")
    assert [row["expression"] for row in rows] == ["dog", "DOG, standing!", "the “café” dog's \"tail\"; drop"]
    for row in rows:
        ids, mask = TOKENIZER.encode(row["expression"])
        np.testing.assert_array_equal(row["token_ids"], ids)
        np.testing.assert_array_equal(row["token_mask"], mask)


def test_baselines_by_hand(handmade, tmp_path):
    rows, _ = _write(handmade, tmp_path, "train")
    # Cups: 20 x 10 and 10 x 10 pixels. The dog, 36 x 20, is largest and does not touch the target.
    assert [row["baselines"].tolist() for row in rows] == [[200, 300, 0, 920]] * 3
    rows, _ = _write(handmade, tmp_path, "val")
    assert rows[0]["baselines"].tolist() == [400, 400, 400, 400]


def test_baselines_where_objects_overlap_and_one_has_no_inside(handmade, tmp_path):
    handmade.instances["annotations"][1]["segmentation"] = [rectangle(20, 5, 60, 35)]
    handmade.instances["annotations"][2]["segmentation"] = [[1, 1, 2, 2]]
    rows, _ = _write(handmade, tmp_path, "train")
    assert rows[0]["baselines"].tolist() == [200, 1300, 100, 1300]


def test_small_columns_equal_the_rows(handmade, tmp_path):
    rows, _ = _write(handmade, tmp_path, "train")
    with np.load(split_files(tmp_path, "train")[2]) as columns:
        assert set(columns.files) == set(rows[0]) - {"image", "mask"}
        for name in columns.files:
            assert columns[name].tolist() == [np.asarray(row[name]).tolist() for row in rows], name
        assert columns["token_ids"].dtype == columns["height"].dtype == np.int32
        assert columns["baselines"].dtype == columns["sent_id"].dtype == np.int64


def test_more_rows_than_are_written_at_once(handmade, tmp_path):
    handmade.refs[0] = handmade.ref(20, 1, 7, 1, "train", {i: f"cup number {i}" for i in range(600)})
    rows, counts = _write(handmade, tmp_path, "train")
    assert [row["expression"] for row in rows[:600]] == [f"cup number {i}" for i in range(600)]
    assert counts["expressions"] == len(rows) == 601


def test_others_may_read_what_they_may_read_beside_it(handmade, tmp_path):
    _write(handmade, tmp_path, "val")
    (tmp_path / "beside").touch()
    assert {path.stat().st_mode for path in split_files(tmp_path, "val")} == {(tmp_path / "beside").stat().st_mode}


def test_images_that_do_not_fit_are_refused_by_name(handmade, tmp_path):
    handmade.instances["images"][0].update(height=60, width=40)
    with pytest.raises(UserError, match=r"a\.jpg is 40 x 60 pixels \(height x width\), instances\.json says 60 x 40"):
        _write(handmade, tmp_path, "train")
    (handmade.images / "b.png").write_bytes(b"\x89PNG no")
    with pytest.raises(UserError, match=r"b\.png is no image"):
        _write(handmade, tmp_path, "val")


def test_a_target_without_inside_is_refused_by_name(handmade, tmp_path):
    handmade.instances["annotations"][3]["segmentation"] = [[1, 1, 2, 2]]
    with pytest.raises(UserError, match="annotation 4 has no polygon"):
        _write(handmade, tmp_path, "val")
