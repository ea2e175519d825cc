"""Expressions that name several objects or none: a data set in gRefCOCO's layout, from its files to the samples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coupalign.commands import prepare_data
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.refer import read_refer
from coupalign.errors import UserError
from tests.handmade_refer import Handmade, rectangle
from tests.refshapes_files import Files


@pytest.fixture
def grefs(handmade) -> Handmade:
    handmade.generalise()
    return handmade


def _read(grefs: Handmade, skip: bool = False):
    grefs.write_generalised()
    return read_refer(grefs.annotations, grefs.images, "unc", skip, generalised=True)


def _arguments(grefs: Handmade, data) -> list[str]:
    source = ["--annotations", str(grefs.annotations), "--images", str(grefs.images)]
    return ["--dataset", "grefcoco", *source, "--output", str(data), "--workers", "1"]


def test_several_and_none_are_read(grefs):
    grefs.refs[1]["ann_id"] = []  # another way to write none
    dataset = _read(grefs)
    assert [(r.ref_id, r.ann_ids, r.category_ids, r.category) for r in dataset.referents] == [
        (20, (1, 5, 3), (1, 2), "cup, dog"),
        (21, (), (), ""),
        (22, (4,), (2,), "dog"),
    ]
    assert dataset.counts("train") == {"images": 1, "referents": 2, "expressions": 3, "several": 2, "none": 1}
    assert dataset.counts("val") == {"images": 1, "referents": 1, "expressions": 3}
    for ann_id, mask in grefs.masks.items():
        np.testing.assert_array_equal(dataset.mask(ann_id), mask)


def _set(place: int, **fields):
    return lambda grefs: grefs.refs[place].update(fields)


@pytest.mark.parametrize(
    ("change", "message", "left"),
    [
        (_set(0, ann_id=[1, 99]), r"referent 20: ann_id 99 is not in instances\.json", [21, 22]),
        (_set(0, ann_id=[1, -1]), "referent 20: ann_id -1 is not in", [21, 22]),
        (_set(0, ann_id=[1, 4]), "referent 20: annotation 4 is on image 9, not on 7", [21, 22]),
        (_set(0, ann_id=[1, 1]), "referent 20: ann_id 1 is listed twice", [21, 22]),
        (_set(0, ann_id=[1, None]), "referent 20 has the ann_id list", [21, 22]),
        (_set(0, category_id=[1, 8]), "referent 20: category_id 8 is not in", [21, 22]),
        (_set(0, no_target=True), "referent 20 has no_target, but also ann_id 1, 5, 3", [21, 22]),
        (_set(0, no_target="no"), "referent 20 has the no_target 'no'", [21, 22]),
        (_set(1, no_target=False), "referent 21: ann_id -1 is not in", [20, 22]),
        (_set(1, no_target=False, ann_id=[]), "referent 21 has an empty ann_id without no_target", [20, 22]),
        (_set(0, category_id=[]), "referent 20 has an empty category_id without no_target", [21, 22]),
        (_set(1, ref_id=20), "ref_id 20 occurs twice", [22]),
    ],
)
def test_contradictions_are_refused_by_name_or_left_out_and_counted(grefs, change, message, left):
    change(grefs)
    with pytest.raises(UserError, match=message):
        _read(grefs)
    dataset = _read(grefs, skip=True)
    assert [referent.ref_id for referent in dataset.referents] == left
    assert sum(problem.referents for problem in dataset.problems) == 3 - len(left)


def test_unusable_files_are_named(grefs):
    with pytest.raises(UserError, match=r"grefs\(unc\)\.json is missing"):
        read_refer(grefs.annotations, grefs.images, "unc", generalised=True)
    grefs.write_generalised()
    (grefs.annotations / "grefs(unc).json").write_text("[{")
    with pytest.raises(UserError, match=r"grefs\(unc\)\.json cannot be read as JSON"):
        read_refer(grefs.annotations, grefs.images, "unc", generalised=True)


def test_masks_are_unions_and_none_is_a_sample_with_an_empty_mask(grefs, tmp_path, capsys):
    grefs.write_generalised()
    assert prepare_data.main(_arguments(grefs, tmp_path / "data")) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:3]] == [
        ["split", "images", "referents", "expressions", "several", "none"],
        ["train", "1", "2", "3", "2", "1"],
        ["val", "1", "1", "3", "0", "0"],
    ]
    counts = json.loads((tmp_path / "data/meta.json").read_text())["splits"]["train"]
    assert (counts["several"], counts["none"]) == (2, 1)
    split = Split(load_config(overrides={"dataset": "grefcoco", "data_dir": str(tmp_path / "data")}), "train")
    union = grefs.masks[1] | grefs.masks[5] | grefs.masks[3]
    targets = [sample["target"] for sample in split.pictures(np.arange(3), 1)]
    for target, expected in zip(targets, (union, union, np.zeros_like(union)), strict=True):
        np.testing.assert_array_equal(target, expected)
    assert split.records["ann_id"].tolist() == [1, 1, -1]
    # The classes of 20 are cup and dog, which all objects of the image belong to. That of 21 is not known.
    everything = np.logical_or.reduce([grefs.masks[i] for i in (1, 2, 3, 5)]).sum()
    largest = grefs.masks[3].sum()
    assert split.records["baselines"][[0, 2]].tolist() == [
        [union.sum(), everything, largest, union.sum()],
        [0, 0, 0, largest],
    ]
    masks = next(split.train_batches(np.arange(3), 3, 1).create_dict_iterator(num_epochs=1))["mask"].asnumpy()
    assert masks[0].any() and not masks[2].any()


def test_an_annotation_without_a_pixel_is_an_error_also_beside_others(grefs, tmp_path, capsys):
    grefs.instances["annotations"][4]["segmentation"] = [rectangle(70, 10, 80, 20)]
    grefs.write_generalised()
    assert prepare_data.main(_arguments(grefs, tmp_path / "data")) == 2
    assert "annotation 5 covers no pixel" in capsys.readouterr().err
    assert prepare_data.main([*_arguments(grefs, tmp_path / "data"), "--on_error", "skip"]) == 0
    assert "left out: 1 x mask; with them 1 referents and 2 expressions" in capsys.readouterr().out


def test_generalised_refshapes_are_prepared_by_the_same_reader(tmp_path, capsys):
    arguments = ["--config", "configs/refshapes_tiny.yaml", "--expressions", "60", "--workers", "1", "--generalised"]
    assert prepare_data.main([*arguments, "--output", str(tmp_path)]) == 0
    assert ["train", "60", "17", "7"] in [
        [line.split()[place] for place in (0, 3, 4, 5)] for line in capsys.readouterr().out.splitlines()[:5]
    ]
    files = Files(tmp_path / "source")
    config = load_config("configs/refshapes_tiny.yaml", {"data_dir": str(tmp_path)})
    split = Split(config, "train")
    refs = {ref["ref_id"]: ref for ref in files.refs}
    for number, sample in enumerate(split.samples(np.arange(len(split)), 1)):
        ref = refs[split.records["ref_id"][number]]
        wanted = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        expected = [item.mask for item in files.items(ref["image_id"]) if item.ann_id in wanted]
        np.testing.assert_array_equal(sample["target"], np.logical_or.reduce(expected) if expected else False)
        assert (split.records["family"][number] == "none") == (not sample["input_target"].any())
        shape = split.records["category"][number]
        alike = [item.mask for item in files.items(ref["image_id"]) if item.looks["shape"] in shape.split(", ")]
        assert split.records["baselines"][number, 1] == (np.logical_or.reduce(alike).sum() if alike else 0)
        if not expected:
            assert split.records["baselines"][number, 3] == max(
                item.mask.sum() for item in files.items(ref["image_id"])
            )
    assert prepare_data.main(["--dataset", "mine", "--annotations", __file__, "--generalised"]) == 2
    assert "--generalised is for RefShapes" in capsys.readouterr().err


def test_check_compares_with_the_authors_figures(grefs, tmp_path, capsys):
    grefs.write_generalised()
    assert prepare_data.main([*_arguments(grefs, tmp_path / "data"), "--check"]) == 0
    out = capsys.readouterr().out
    assert "all splits: 6 expressions; its authors say 278,232" in out
    assert "all splits: 2 expressions that name several; its authors say 80,022" in out
    assert "all splits: 1 expressions that name none; its authors say 32,202" in out
