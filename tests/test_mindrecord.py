"""Prepared splits, read with MindSpore's own reader of MindRecord."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mindspore.mindrecord import FileReader

from coupalign.data import convert as converting
from coupalign.data.convert import SCENES_PER_PART, convert, read_part, scenes_of
from coupalign.data.mindrecord import (
    EXPRESSIONS,
    IMAGES,
    MASKS,
    MOST_OBJECTS,
    OBJECT_SIDE,
    OBJECTS,
    record_file,
    split_files,
    write_split,
)
from coupalign.data.refer import read_refer
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from tests.handmade_refer import Handmade, rectangle

TOKENIZER = Tokenizer("assets/bert-base-uncased-vocab.txt", 10)


def _write(handmade: Handmade, directory, split: str, skip: bool = False):
    """Expressions with the image and the mask they point at; and what was written of it."""
    handmade.write()
    scenes = scenes_of(read_refer(handmade.annotations, handmade.images, "unc", skip), split)
    parts = list(convert(scenes, directory, split, skip, 1))
    largest = max(part.largest for part in parts)
    counts, problems = write_split(directory, split, map(read_part, parts), TOKENIZER, "a test", largest)
    written = SimpleNamespace(**counts, problems=problems)
    images, masks, rows = (_read(record_file(directory, split, part)) for part in (IMAGES, MASKS, EXPRESSIONS))
    assert (written.images, written.referents, written.expressions) == (len(images), len(masks), len(rows))
    return [{**row, **images[row["image_row"]], **masks[row["mask_row"]]} for row in rows], written


def _read(path) -> list[dict]:
    reader = FileReader(str(path))
    rows = list(reader.get_next())
    reader.close()
    return rows


def test_every_sentence_of_every_referent_is_a_row_in_order(handmade, tmp_path):
    rows, written = _write(handmade, tmp_path, "train")
    assert [(row["ref_id"], row["sent_id"], row["expression"]) for row in rows] == [
        (20, 200, "the left cup"),
        (20, 201, "upper cup"),
        (21, 210, "cup that is on top of the other one"),
    ]
    assert (written.images, written.referents, written.expressions, written.problems) == (1, 2, 3, [])
    assert {
        (row["image_id"], row["ann_id"], row["category"], row["family"], row["height"], row["width"]) for row in rows
    } == {(7, 1, "cup", "", 40, 60)}


def test_masks_of_all_objects_of_an_image_the_largest_first(handmade, tmp_path):
    _write(handmade, tmp_path, "train")
    (row,) = _read(record_file(tmp_path, "train", OBJECTS))
    stored = cv2.imdecode(np.frombuffer(row["objects"], np.uint8), cv2.IMREAD_GRAYSCALE)
    stored = stored.reshape(MOST_OBJECTS, OBJECT_SIDE, OBJECT_SIDE)
    (image_id,) = {each["image_id"] for each in handmade.refs if each["split"] == "train"}
    drawn = [handmade.masks[each["id"]] for each in handmade.instances["annotations"] if each["image_id"] == image_id]
    drawn.sort(key=np.sum, reverse=True)
    for found, mask in zip(stored, drawn):
        y, x = (np.arange(OBJECT_SIDE) * side // OBJECT_SIDE for side in mask.shape)
        np.testing.assert_array_equal(found, 255 * mask[np.ix_(y, x)])
    assert not stored[len(drawn) :].any()


def test_what_belongs_to_an_image_stays_together(handmade, tmp_path):
    handmade.refs += [
        handmade.ref(23, 4, 9, 2, "train", {230: "the dog"}),
        handmade.ref(24, 3, 7, 2, "train", {240: "a dog"}),
    ]
    rows, written = _write(handmade, tmp_path, "train")
    assert [row["sent_id"] for row in rows] == [200, 201, 210, 240, 230]
    assert (written.images, written.referents) == (2, 4)


def test_image_is_the_file_and_mask_the_annotation(handmade, tmp_path):
    for split, name, ann_id in (("train", "a.jpg", 1), ("val", "b.png", 4)):
        for row in _write(handmade, tmp_path, split)[0]:
            assert bytes(row["image"]) == (handmade.images / name).read_bytes()
            mask = cv2.imdecode(np.frombuffer(row["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(mask, handmade.masks[ann_id] * np.uint8(255))


def test_images_that_decoders_differ_on_are_written_as_png(handmade, tmp_path):
    picture = handmade.pixels[9]
    handmade.instances["images"][1]["file_name"] = "b.webp"
    cv2.imwrite(str(handmade.images / "b.webp"), picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])  # lossless
    rows, _ = _write(handmade, tmp_path, "val")
    image = bytes(rows[0]["image"])
    assert image.startswith(b"\x89PNG")
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], picture)


def test_words_are_the_tokenizers(handmade, tmp_path):
    rows, _ = _write(handmade, tmp_path, "val")
    assert [row["expression"] for row in rows] == ["dog", "DOG, standing!", 'the “café” dog\'s "tail"; drop']
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


@pytest.mark.parametrize("workers", [1, 3])
def test_scenes_stay_in_order_with_any_number_of_workers(handmade, tmp_path, workers):
    handmade.write()
    train, val = (
        scenes_of(read_refer(handmade.annotations, handmade.images, "unc"), split)[0] for split in ("train", "val")
    )
    scenes = ([train] + [val] * 2) * SCENES_PER_PART
    parts = list(convert(scenes, tmp_path, "x", False, workers))
    assert [len(part.scenes) for part in parts] == [SCENES_PER_PART] * 3
    drawn = [pixels for part in parts for _, pixels in read_part(part)]
    assert [list(pixels.masks) for pixels in drawn] == [[20, 21], [22], [22]] * SCENES_PER_PART
    before = {part.path: part.path.stat().st_mtime_ns for part in parts}
    parts[1].path.unlink()
    assert list(convert(scenes, tmp_path, "x", False, workers)) == parts
    again = {part for part, time in before.items() if part.stat().st_mtime_ns != time}
    assert again == {parts[1].path}


def test_the_umask_decides_who_may_read_the_files(handmade, tmp_path):
    _write(handmade, tmp_path, "val")
    (tmp_path / "beside").touch()
    assert {path.stat().st_mode for path in split_files(tmp_path, "val")} == {(tmp_path / "beside").stat().st_mode}


def _other_size(handmade):
    handmade.instances["images"][1].update(height=30, width=50)


def _no_image(handmade):
    (handmade.images / "b.png").write_bytes(b"\x89PNG no")


def _no_inside(handmade):
    handmade.instances["annotations"][3]["segmentation"] = [[1, 1, 2, 2]]


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (_other_size, "image", r"b\.png is 50 x 30 pixels \(height x width\), its annotations are for 30 x 50"),
        (_no_image, "image", r"b\.png is not an image"),
        (_no_inside, "mask", "annotation 4 covers no pixel"),
    ],
)
def test_unusable_images_and_masks_are_refused_by_name_or_left_out(handmade, tmp_path, spoil, kind, message):
    handmade.refs.append(handmade.ref(23, 1, 7, 1, "val", {230: "the cup"}))
    spoil(handmade)
    with pytest.raises(UserError, match=message):
        _write(handmade, tmp_path, "val")
    rows, written = _write(handmade, tmp_path, "val", skip=True)
    assert [row["sent_id"] for row in rows] == [230]
    assert [(problem.kind, problem.referents, problem.expressions) for problem in written.problems] == [(kind, 1, 3)]


@pytest.mark.parametrize("limit", [3 << 10, 9 << 10])
def test_images_beyond_the_page_size_are_named_or_skipped(handmade, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(converting, "MOST_IMAGE_BYTES", limit)
    handmade.refs.append(handmade.ref(23, 1, 7, 1, "val", {230: "the cup"}))
    noise = np.random.default_rng(0).integers(0, 256, (50, 30, 3), np.uint8)
    cv2.imwrite(str(handmade.images / "b.png"), noise)
    if limit > 5 << 10:
        assert len(_write(handmade, tmp_path, "val")[0]) == 4
        return
    with pytest.raises(UserError, match=r"image .*b\.png takes .* make it smaller"):
        _write(handmade, tmp_path, "val")
    rows, written = _write(handmade, tmp_path, "val", skip=True)
    assert [row["sent_id"] for row in rows] == [230]
    assert [problem.kind for problem in written.problems] == ["image"]


def test_an_image_of_more_than_32_megabytes_is_stored(handmade, tmp_path):
    """MindRecord's default page is too small for it, as for the PNG of a turned phone photo."""
    noise = np.random.default_rng(0).integers(0, 256, (3400, 3400, 3), np.uint8)
    cv2.imwrite(str(handmade.images / "b.png"), noise, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    handmade.instances["images"][1].update(height=3400, width=3400)
    handmade.instances["annotations"][3]["segmentation"] = [rectangle(5, 5, 3000, 3000)]
    rows, _ = _write(handmade, tmp_path, "val")
    assert bytes(rows[0]["image"]) == (handmade.images / "b.png").read_bytes()


def test_parts_are_bounded_by_their_pixels(handmade, tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "_PIXELS_PER_PART", 4000)
    handmade.write()
    dataset = read_refer(handmade.annotations, handmade.images, "unc")
    scenes = scenes_of(dataset, "train") + scenes_of(dataset, "val") * 3  # 2,400 and three times 1,500 pixels
    assert [len(part.scenes) for part in convert(scenes, tmp_path, "x", False, 1)] == [2, 2]
