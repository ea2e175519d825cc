"""The reader of the REFER layout: nothing is lost, and mistakes are named."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from pycocotools import mask as coco

from coupalign.data.refer import read_refer
from coupalign.errors import UserError
from tests.handmade_refer import Handmade


def _read(handmade: Handmade, skip: bool = False):
    handmade.write()
    return read_refer(handmade.annotations, handmade.images, "unc", skip)


def test_every_referent_and_every_sentence_is_kept(handmade):
    dataset = _read(handmade)
    assert [referent.ref_id for referent in dataset.referents] == [20, 21, 22]
    assert {(r.ref_id, s.sent_id): s.text for r in dataset.referents for s in r.sentences} == {
        (ref["ref_id"], said["sent_id"]): said["sent"] for ref in handmade.refs for said in ref["sentences"]
    }
    # Referents may share an annotation.
    assert [(r.ref_id, r.ann_ids) for r in dataset.referents] == [(20, (1,)), (21, (1,)), (22, (4,))]
    assert dataset.splits == ["train", "val"]
    assert [r.ref_id for r in dataset.of_split("val")] == [22]
    assert [r.category for r in dataset.referents] == ["cup", "cup", "dog"]
    assert dataset.problems == ()


def test_masks_and_images(handmade):
    dataset = _read(handmade)
    for ann_id, mask in handmade.masks.items():
        np.testing.assert_array_equal(dataset.mask(ann_id), mask)
    assert dataset.images[7].path == handmade.images / "a.jpg"
    assert (dataset.images[9].height, dataset.images[9].width) == (50, 30)
    assert dataset.annotations_of == {7: [1, 2, 3], 9: [4]}


def test_raw_replaces_a_sentence_without_a_word(handmade):
    handmade.refs[0]["sentences"][0].update(sent="...", raw="Left cup")
    handmade.refs[0]["sentences"][1].update(sent="", raw=" ")
    handmade.refs[1]["sentences"][0].update(sent="!!!", raw="?")
    dataset = _read(handmade)
    assert [s.text for s in dataset.referents[0].sentences] == ["Left cup"]
    assert [r.ref_id for r in dataset.referents] == [20, 22]
    assert [(problem.kind, problem.referents, problem.expressions) for problem in dataset.problems] == [
        ("empty expression", 0, 1),
        ("empty expression", 1, 1),
    ]


def test_whole_numbers_written_as_floats_are_read(handmade):
    handmade.instances["images"][0].update(height=40.0, width=60.0, id=7.0)
    handmade.instances["annotations"][0].update(image_id=7.0)
    image = _read(handmade).images[7]
    assert (image.height, image.width) == (40, 60)
    assert all(type(side) is int for side in (image.height, image.width))


def _drop(name):
    return lambda data: data.refs[0].pop(name)


def _set(**fields):
    return lambda data: data.refs[0].update(fields)


def _said(**fields):
    return lambda data: data.refs[0]["sentences"][0].update(fields)


# What is wrong, its message, and the referents that are left when it is skipped.
LOST = [
    (lambda data: data.refs[2].update(ann_id=99), r"referent 22: ann_id 99 is not in instances\.json", [20, 21]),
    (lambda data: data.refs[2].update(image_id=99), r"referent 22: image_id 99 is not in instances\.json", [20, 21]),
    (lambda data: data.refs[2].update(image_id=7), "referent 22: annotation 4 is on image 9, not on 7", [20, 21]),
    (_set(category_id=8), "referent 20: category_id 8 is not in", [21, 22]),
    (lambda data: data.refs[1].update(ref_id=20), "ref_id 20 occurs twice", [22]),
    (_drop("ann_id"), "referent 20 has no ann_id", [21, 22]),
    (_drop("split"), "referent 20 has no split", [21, 22]),
    (_drop("ref_id"), "entry 0 has no ref_id", [21, 22]),
    (_set(ref_id=True), "entry 0 has the ref_id bool", [21, 22]),
    (_set(ref_id=2**63), "entry 0 has the ref_id int", [21, 22]),
    (_set(split="../../train"), r"20 has the split '\.\./\.\./train'", [21, 22]),
    (_set(sentences=[]), "20 has the sentences list", [21, 22]),
    (lambda data: data.refs.append(5), "entry 3 is a int without ref_id", [20, 21, 22]),
    (lambda data: data.instances["images"][0].pop("height"), "image 7 has no height", [22]),
    (lambda data: data.instances["images"][0].update(width=0), "image 7 has the width 0", [22]),
    (lambda data: (data.images / "b.png").unlink(), r"b\.png is missing: .*--images", [20, 21]),
]


@pytest.mark.parametrize(("change", "message", "left"), LOST)
def test_inconsistent_referents_are_refused_by_name_or_left_out_and_counted(handmade, change, message, left):
    change(handmade)
    with pytest.raises(UserError, match=message) as caught:
        _read(handmade)
    dataset = _read(handmade, skip=True)
    assert [referent.ref_id for referent in dataset.referents] == left
    assert dataset.problems[0].message == str(caught.value)
    assert set(dataset.images) == {7 if ref_id < 22 else 9 for ref_id in left}
    assert {annotation["image_id"] for annotation in dataset.annotations.values()} == set(dataset.images)
    assert sum(problem.referents for problem in dataset.problems) == len(handmade.refs) - len(left)
    said = sum(
        len(ref["sentences"])
        for ref in handmade.refs
        if isinstance(ref, dict) and isinstance(ref.get("sentences"), list)
    )
    assert sum(problem.expressions for problem in dataset.problems) == said - sum(
        len(referent.sentences) for referent in dataset.referents
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.refs[0]["sentences"][0].pop("sent_id"), "referent 20: sentence 0 has no sent_id"),
        (_said(sent_id="x"), "referent 20: sentence 0 has no sent_id that is a number"),
        (_said(sent=5, raw=None), "referent 20: sentence 0 has no text"),
        (lambda data: data.refs[0]["sentences"].__setitem__(0, "cup"), "referent 20: sentence 0 has no sent_id"),
    ],
)
def test_an_invalid_sentence_costs_only_itself(handmade, change, message):
    change(handmade)
    with pytest.raises(UserError, match=message):
        _read(handmade)
    dataset = _read(handmade, skip=True)
    assert [(problem.kind, problem.referents, problem.expressions) for problem in dataset.problems] == [
        ("expression", 0, 1)
    ]
    assert [sentence.sent_id for sentence in dataset.referents[0].sentences] == [201]


def test_images_that_are_missing_are_counted_together(handmade):
    for path in handmade.images.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"a\.jpg is missing, and 1 more: "):
        _read(handmade)
    with pytest.raises(UserError, match=r"no referent of .*refs\(unc\)\.p can be used.*a\.jpg is missing"):
        _read(handmade, skip=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.refs.clear(), "not a list of referents"),
        (lambda data: data.instances.pop("categories"), "no list of categories"),
        (lambda data: data.instances["annotations"][1].pop("id"), "annotation number 1 has no id"),
        (lambda data: data.instances["annotations"][1].update(id=[1]), "annotation number 1 has the id list"),
        (lambda data: data.instances["annotations"][1].update(image_id=None), "number 1 has the image_id NoneType"),
        (lambda data: data.instances["annotations"][1].update(id=1), "annotation id 1 occurs twice"),
        (lambda data: data.instances["categories"][1].update(name={}), "category number 1 has the name dict"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_files_that_are_wrong_as_a_whole_are_refused(handmade, change, message, skip):
    change(handmade)
    with pytest.raises(UserError, match=message):
        _read(handmade, skip)


@pytest.mark.parametrize(
    ("place", "file_name"),
    [
        ("{name}", "{name}"),
        ("train2014/{name}", "{name}"),
        ("saiapr_tc-12/{name}", "{name}"),
        ("00/images/{name}", "00/images/{name}"),
        ("saiapr_tc-12/00/images/{name}", "00/images/{name}"),
        ("{name}", "saiapr_tc-12/00/images/{name}"),
        ("saiapr_tc-12/{name}", "00/images/{name}"),
        ("00/images/{name}", "{name}"),
        ("saiapr_tc-12/00/images/{name}", "{name}"),
    ],
)
def test_images_are_found_in_common_directory_layouts(handmade, place, file_name):
    expected = {}
    for image in handmade.instances["images"]:
        name = image["file_name"]
        path = expected[image["id"]] = handmade.images / place.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(handmade.images / name, path)
        # IAPR TC-12 has drawings of its own, of the same names, beside.
        (path.parent.parent / "segmented_images").mkdir(exist_ok=True)
        shutil.copy(path, path.parent.parent / "segmented_images")
        image["file_name"] = file_name.format(name=name)
    assert {image_id: image.path for image_id, image in _read(handmade).images.items()} == expected


def test_ids_of_annotations_that_are_text_become_places(handmade):
    for annotation in handmade.instances["annotations"]:
        mask = np.asfortranarray(handmade.masks[annotation["id"]].astype(np.uint8))
        annotation["id"] = f"{annotation['image_id']}_{annotation['id']}"
        annotation["segmentation"] = [{**coco.encode(mask), "counts": coco.encode(mask)["counts"].decode()}]
    for ref in handmade.refs:
        ref["ann_id"] = f"{ref['image_id']}_{ref['ann_id']}"
    dataset = _read(handmade)
    assert [referent.ann_ids for referent in dataset.referents] == [(0,), (0,), (3,)]
    assert dataset.annotations_of == {7: [0, 1, 2], 9: [3]}
    for place, ann_id in enumerate((1, 2, 3, 4)):
        np.testing.assert_array_equal(dataset.mask(place), handmade.masks[ann_id])


def test_invalid_characters_are_replaced(handmade):
    handmade.refs[0]["sentences"][0]["sent"] = "cup \ud83d\ude00 \udc80 here"
    assert _read(handmade).referents[0].sentences[0].text == "cup \U0001f600 \ufffd here"


def test_wrong_directories_and_names_point_to_the_right_ones(handmade):
    handmade.write("google")
    with pytest.raises(UserError, match=r"refs\(umd\)\.p is missing, but there is .*refs\(google\)\.p: .*--split_by"):
        read_refer(handmade.annotations, handmade.images, "umd")
    with pytest.raises(
        UserError, match=r"refs\(google\)\.p is missing, but there is .*annotations/refs\(google\)\.p: .*--annotations"
    ):
        read_refer(handmade.annotations.parent, handmade.images, "google")
    with pytest.raises(UserError, match="nowhere/refs.unc..p is missing: .*--annotations"):
        read_refer(handmade.annotations / "nowhere", handmade.images, "unc")


def test_missing_and_damaged_files_are_named(handmade):
    with pytest.raises(UserError, match=r"refs\(unc\)\.p is missing.*--annotations"):
        read_refer(handmade.annotations, handmade.images, "unc")
    handmade.write()
    (handmade.annotations / "instances.json").write_text("{")
    with pytest.raises(UserError, match=r"instances\.json cannot be read as JSON"):
        read_refer(handmade.annotations, handmade.images, "unc")
    (handmade.annotations / "instances.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"instances\.json cannot be read as JSON"):
        read_refer(handmade.annotations, handmade.images, "unc")
    (handmade.annotations / "refs(unc).p").write_bytes(b"")
    handmade.instances["annotations"].clear()
    (handmade.annotations / "instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match="not a pickle or is damaged"):
        read_refer(handmade.annotations, handmade.images, "unc")
