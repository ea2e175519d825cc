"""The files of RefShapes: equal everywhere, masks that fit the pixels, splits as documented."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from coupalign.errors import UserError
from coupalign.refshapes import RefShapesSettings, write_refshapes, writer
from coupalign.refshapes.drawing import shape_mask
from tests.refshapes_files import Files

_SMALL = RefShapesSettings(expressions=60, seed=3)
_SMALL_SHA256 = "6af7c7899952ba4164146e485b11265fb822e42cf31fe9965a160f1d95b4976a"
_GENERALISED = RefShapesSettings(expressions=60, seed=3, generalised=True)
_GENERALISED_SHA256 = "e0085ffc435f6f487f2cd8f27ca12a7a316439e9fc048934cba64aee316a07e2"
# What a name means in RGB, by hue and saturation as OpenCV has them (hue 0 .. 179).
_HUES = {"red": 0, "orange": 16, "yellow": 28, "green": 64, "cyan": 92, "blue": 115, "purple": 141}


def _sha256(directory: Path) -> str:
    """Of the pixels of the images and the bytes of the other files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        is_image = path.suffix == ".png"
        content = np.asarray(Image.open(path).convert("RGB")).tobytes() if is_image else path.read_bytes()
        digest.update(path.relative_to(directory).as_posix().encode() + b"\0" + content)
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "sha256"), [(_SMALL, _SMALL_SHA256), (_GENERALISED, _GENERALISED_SHA256)])
def test_a_seed_gives_the_same_data_everywhere_and_with_any_number_of_workers(tmp_path, settings, sha256):
    for workers in (1, 2):
        write_refshapes(tmp_path / str(workers), settings, workers)
        assert _sha256(tmp_path / str(workers)) == sha256, (
            "RefShapes of a seed changed: if this is intended, raise _VERSION in writer.py and update the hash here"
        )


def test_a_finished_data_set_is_kept_and_one_of_other_settings_replaced(tmp_path):
    directory = tmp_path / "source"
    assert write_refshapes(directory, RefShapesSettings(10, seed=1))
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert not write_refshapes(directory, RefShapesSettings(10, seed=1))
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    assert write_refshapes(directory, RefShapesSettings(20, seed=1))
    assert sum(len(ref["sentences"]) for ref in Files(directory).refs if ref["split"] == "train") == 20
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="not a RefShapes data set"):
        write_refshapes(tmp_path, RefShapesSettings(10))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_nothing_half_made_stays(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_pickle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_refshapes(tmp_path / "source", RefShapesSettings(10))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"expressions": 9}, {"seed": -1}, {"seed": 2**31}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match="--"):
        RefShapesSettings(**settings)


def test_counts_are_exact_and_ids_unique(refshapes):
    count = Counter(ref["split"] for ref in refshapes.refs for _ in ref["sentences"])
    assert count == {"train": 400, "val": 40, "testA": 40, "testB": 40}
    sent_ids = [sentence["sent_id"] for ref in refshapes.refs for sentence in ref["sentences"]]
    assert len(set(sent_ids)) == len(sent_ids) == 520
    assert sent_ids == [sent_id for ref in refshapes.refs for sent_id in ref["sent_ids"]]
    assert (
        len({ref["ref_id"] for ref in refshapes.refs})
        == len({ref["ann_id"] for ref in refshapes.refs})
        == len(refshapes.refs)
    )
    splits_of_image = {(ref["image_id"], ref["split"]) for ref in refshapes.refs}
    assert len(splits_of_image) == len(refshapes.images)


def test_refs_and_annotations_fit(refshapes):
    for ref in refshapes.refs:
        annotation = refshapes.annotations[ref["ann_id"]]
        assert annotation["image_id"] == ref["image_id"]
        assert annotation["category_id"] == ref["category_id"]
        assert refshapes.categories[ref["category_id"]] == annotation["attributes"]["shape"]
        assert refshapes.images[ref["image_id"]]["file_name"] == ref["file_name"]
        for sentence in ref["sentences"]:
            assert sentence["tokens"] == sentence["sent"].split() == sentence["raw"].split()


def test_number_of_objects_and_pictures_sizes(refshapes):
    few = range(3, 9)
    for split, counts in {"train": few, "val": few, "testA": few, "testB": range(9, 13)}.items():
        images = {ref["image_id"] for ref in refshapes.refs if ref["split"] == split}
        seen = {len(refshapes.items(image_id)) for image_id in images}
        assert seen <= set(counts)
        assert len(seen) > 1
    sizes = {(image["height"], image["width"]) for image in refshapes.images.values()}
    assert any(height != width for height, width in sizes)
    assert all(100 <= side <= 150 for size in sizes for side in size)


def test_unseen_pairs_are_what_testA_refers_to_and_nowhere_else(refshapes):
    pairs = {"testA": set(), "elsewhere": set()}
    for ref in refshapes.refs:
        for item in refshapes.items(ref["image_id"]):
            pair = item.looks["colour"], item.looks["shape"]
            if ref["split"] != "testA":
                pairs["elsewhere"].add(pair)
            elif item.ann_id == ref["ann_id"]:
                pairs["testA"].add(pair)
    assert pairs["testA"]
    assert not pairs["testA"] & pairs["elsewhere"]
    assert len(pairs["elsewhere"]) == 8 * 8 - 8


def test_boxes_and_areas_are_those_of_the_visible_part(refshapes):
    occluded = 0
    for image_id in refshapes.images:
        items = refshapes.items(image_id)
        assert np.sum([item.mask for item in items], axis=0).max() == 1, "masks overlap"
        for item in items:
            annotation = refshapes.annotations[item.ann_id]
            left, top, right, bottom = item.box
            assert annotation["bbox"] == [left, top, right - left, bottom - top]
            assert annotation["area"] == item.mask.sum() >= 70
            # A shape that nothing covers is as it is drawn at some size.
            occluded += not any(
                np.array_equal(item.mask[top:bottom, left:right], _cropped(item.looks["shape"], radius))
                for radius in (9, 10, 11, 17, 18, 19, 20)
            )
    assert 0.1 < occluded / len(refshapes.annotations) < 0.6


def _cropped(shape: str, radius: int) -> np.ndarray:
    mask = shape_mask(shape, radius)
    return mask[np.ix_(mask.any(1), mask.any(0))]


def test_pixels_of_a_mask_have_the_colour_and_pattern_it_is_called(refshapes):
    for image_id in refshapes.images:
        rgb = refshapes.pixels(image_id)
        hue, saturation, value = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).astype(int), 2, 0)
        items = refshapes.items(image_id)
        background = ~np.any([item.mask for item in items], axis=0)
        assert saturation[background].max() < 110
        for item in items:
            bright = item.mask & (value > 140)
            assert bright.sum() > 20
            if item.looks["colour"] == "white":
                assert saturation[bright].max() < 10
            else:
                nearest = [
                    min(_HUES, key=lambda name: min(abs(h - _HUES[name]), 180 - abs(h - _HUES[name])))
                    for h in hue[bright]
                ]
                assert set(nearest) == {item.looks["colour"]}
            inside = cv2.erode(item.mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)
            dark = (inside & (value < 110)).sum() / max(inside.sum(), 1)
            marks = {"solid": (0, 0.0), "striped": (0.2, 0.8), "dotted": (0.04, 0.4)}[item.looks["pattern"]]
            assert inside.sum() < 40 or marks[0] <= dark <= marks[1], item.looks


@pytest.mark.parametrize("radius", [9, 20, 47])
def test_shapes_have_their_area_and_symmetry(radius):
    disc = np.pi * radius**2
    star = 5 * np.sin(np.pi / 5) * 0.4253 * radius**2  # ten triangles; inner radius 0.4253 by its vertices
    areas = {
        "circle": disc,
        "ring": disc * 0.84,
        "square": (2 * 0.88 * radius) ** 2,
        "diamond": 2 * 0.8 * radius**2,
        "cross": (2 * 2 * 0.72 - 0.72**2) * radius**2,
        "triangle": 1.76 * radius**2,
        "star": star,
    }
    for shape in (*areas, "heart"):
        mask = shape_mask(shape, radius)
        assert mask.shape == (2 * radius, 2 * radius)
        np.testing.assert_array_equal(mask, mask[:, ::-1])
        if shape in areas:
            assert mask.sum() == pytest.approx(areas[shape], rel=1.2 / radius), shape
        if shape in ("circle", "ring", "square", "diamond", "cross"):
            np.testing.assert_array_equal(mask, mask[::-1])
