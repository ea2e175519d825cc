"""Annotations of other programs become the same masks and the same training input."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coupalign.annotations.convert import AnnotationSource, convert_annotations
from coupalign.commands.convert_annotations import main
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.json_lines import read_json_lines
from coupalign.data.prepare import prepare
from coupalign.data.refer import read_refer
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from tests.annotation_files import WRITERS, Scene, read_scenes
from tests.conftest import TINY

SCENES = 20
SQUARE = np.pad(np.ones((10, 20), bool), ((5, 25), (10, 30)))  # in an image of 40 x 60 pixels


@pytest.fixture(scope="module")
def scenes(refshapes) -> list[Scene]:
    found = read_scenes(refshapes, "train", SCENES)
    assert len(found) == SCENES
    return found


@pytest.fixture
def photos(tmp_path) -> Path:
    """A directory with desk.jpg and room.png, 40 x 60 pixels."""
    directory = tmp_path / "photos"
    directory.mkdir()
    for name in ("desk.jpg", "room.png"):
        Image.new("RGB", (60, 40), "grey").save(directory / name)
    return directory


def _lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "annotations.jsonl").read_text().splitlines()]


def _left_out(output: Path) -> list[tuple[str, str]]:
    lines = map(json.loads, (output / "left_out.jsonl").read_text().splitlines())
    return [(line["reason"], line["name"]) for line in lines]


def _masks(output: Path) -> list[np.ndarray]:
    dataset = read_json_lines(output / "annotations.jsonl", output)
    return [np.logical_or.reduce([dataset.mask(ann_id) for ann_id in each.ann_ids]) for each in dataset.referents]


def _inputs(dataset, directory: Path) -> list[tuple]:
    """Everything that a training sees, in an order that ids do not decide."""
    config = load_config(overrides={**TINY, "dataset": "mine", "data_dir": str(directory), "image_size": 64})
    prepare(dataset, "mine", directory, Tokenizer(config.data.vocab_file, config.model.max_tokens))
    split = Split(config, "train")
    arrays = ("image", "token_ids", "token_mask", "input_target", "target")
    records = zip(split.records["expression"], split.records["category"], split.samples(range(len(split)), 1))
    return sorted((text, category, *(sample[name].tobytes() for name in arrays)) for text, category, sample in records)


@pytest.mark.slow
def test_every_format_gives_the_same_file_and_the_training_input_of_refer(scenes, refshapes, tmp_path):
    images, written = refshapes.directory / "images", {}
    for write, kind, name in WRITERS:
        directory = tmp_path / write.__name__
        directory.mkdir()
        write(scenes, directory)
        table = directory / "table.csv"
        source = AnnotationSource(kind, directory / name, images, table if table.exists() else None)
        conversion = convert_annotations(source, directory / "out")
        assert (conversion.images, conversion.left_out, conversion.united) == (SCENES, [], []), write.__name__
        written[write.__name__] = (directory / "out/annotations.jsonl").read_bytes()
    assert {name: content == written["coco_runs"] for name, content in written.items()} == dict.fromkeys(written, True)
    expected = [drawn.mask for scene in scenes for drawn in scene.objects]
    for mask, drawn in zip(_masks(tmp_path / "coco_runs/out"), expected, strict=True):
        np.testing.assert_array_equal(mask, drawn)
    lines = read_json_lines(tmp_path / "coco_runs/out/annotations.jsonl", tmp_path / "coco_runs/out")
    refer = read_refer(refshapes.directory, images, "refshapes")
    files = {scene.image for scene in scenes}
    used = [r for r in refer.referents if refer.images[r.image_id].path.name in files and r.split == "train"]
    ours = _inputs(lines, tmp_path / "ours")
    theirs = _inputs(type(refer)(**{**vars(refer), "referents": tuple(used)}), tmp_path / "theirs")
    assert ours == theirs and len(ours) >= SCENES


def _labelme(photos: Path, *shapes: dict, name: str = "desk", **fields) -> None:
    image = {"imagePath": f"{name}.jpg", "imageHeight": 40, "imageWidth": 60, "imageData": None}
    (photos / f"{name}.json").write_text(json.dumps({**image, "shapes": list(shapes), **fields}))


def _shape(kind: str, points: list, label: str = "cup", **fields) -> dict:
    return {"shape_type": kind, "points": points, "label": label, **fields}


CUP = _shape("rectangle", [[10, 5], [30, 15]])


def test_shapes_of_labelme(photos, tmp_path, capsys):
    """Areas by their formulas; what has no area is counted."""
    _labelme(
        photos,
        CUP,
        _shape("circle", [[30, 20], [30, 32]], "plate"),
        _shape("polygon", [[0, 0], [20, 0], [0, 20]], "corner"),
        _shape("linestrip", [[0, 0], [20, 0]], "edge"),
        _shape("point", [[3, 4]], "dot"),
        _shape("spiral", [[3, 4]], "spring"),
        _shape("rectangle", [[40, 0], [50, 10]], ""),
        _shape("rectangle", [[40, 0], [50, 10]], "!!!"),
    )
    assert main(["--from", "labelme", "--annotations", str(photos), "--output", str(tmp_path / "out")]) == 0
    assert [(line["image"], line["expression"], line["category"]) for line in _lines(tmp_path / "out")] == [
        ("../photos/desk.jpg", label, label) for label in ("cup", "plate", "corner")
    ]
    cup, plate, corner = _masks(tmp_path / "out")
    np.testing.assert_array_equal(cup, SQUARE)
    assert abs(plate.sum() - np.pi * 12**2) < 12 and abs(corner.sum() - 200) <= 20
    reasons = [reason for reason, _ in _left_out(tmp_path / "out")]
    assert sorted(reasons) == [
        "expressions without a word",
        "no expression",
        "points and lines, which have no area",
        "points and lines, which have no area",
        "unknown shapes",
    ]
    printed = capsys.readouterr().out
    assert "left out: 5" in printed and "3 from labels" in printed


def test_groups_are_objects_and_one_expression_for_several_objects_is_said(photos, tmp_path):
    _labelme(
        photos,
        _shape("rectangle", [[0, 0], [5, 5]], "cup", group_id=1, description="the left cup\nsmall cup"),
        _shape("rectangle", [[10, 0], [15, 5]], "cup", group_id=1),
        _shape("rectangle", [[20, 0], [25, 5]], "cup", group_id=2, description="small cup"),
        _shape("rectangle", [[30, 0], [35, 5]], "lid"),
        _shape("rectangle", [[40, 0], [45, 5]], "lid"),
    )
    conversion = convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path)
    columns = [sorted(set(np.nonzero(mask)[1] // 10)) for mask in _masks(tmp_path)]
    assert [line["expression"] for line in _lines(tmp_path)] == ["the left cup", "small cup", "lid"]
    assert columns == [[0, 1], [0, 1, 2], [3, 4]]
    assert len(conversion.united) == 2 and "small cup" in conversion.united[0]


def test_one_expression_for_objects_of_several_labels_is_one_line(photos, tmp_path):
    plate = _shape("rectangle", [[40, 0], [50, 10]], "plate", description="the dishes")
    _labelme(photos, {**CUP, "description": "the dishes"}, plate)
    convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path)
    assert [(line["expression"], line["category"]) for line in _lines(tmp_path)] == [("the dishes", "cup, plate")]
    assert _masks(tmp_path)[0].sum() == SQUARE.sum() + 100


def test_different_images_of_one_name_inside_labelme_files_are_refused(photos, tmp_path):
    (photos / "desk.jpg").unlink()
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (60, 40), colour).save(tmp_path / "desk.png")
        content = base64.b64encode((tmp_path / "desk.png").read_bytes()).decode()
        _labelme(photos, CUP, name=f"file{number}", imagePath=f"{number}/desk.jpg", imageData=content)
    with pytest.raises(UserError, match="different image desk.jpg"):
        convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path / "out")


def test_images_inside_labelme_files_become_files(photos, tmp_path):
    content = (photos / "desk.jpg").read_bytes()
    (photos / "desk.jpg").unlink()
    _labelme(photos, CUP, imageData=base64.b64encode(content).decode())
    convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path / "out")
    assert [line["image"] for line in _lines(tmp_path / "out")] == ["images/desk.jpg"]
    assert (tmp_path / "out/images/desk.jpg").read_bytes() == content


def test_turned_boxes_and_ellipses_of_cvat(photos, tmp_path):
    """A quarter turn swaps the sides of a box about its centre; an ellipse has the area pi a b."""
    (photos / "a.xml").write_text(
        '<annotations><image id="0" name="desk.jpg" width="60" height="40">'
        '<box label="cup" xtl="10" ytl="5" xbr="30" ybr="15" rotation="90"/>'
        '<ellipse label="plate" cx="30" cy="20" rx="15" ry="8" rotation="0"/>'
        '<polygon label="tilted" points="30.0,0.0;50.0,0.0;50.0,10.0;30.0,10.0"/>'
        '<polyline label="edge" points="1,1;2,2"/><tag label="indoors"/>'
        '</image><track id="4" label="car"/></annotations>'
    )
    convert_annotations(AnnotationSource("cvat", photos / "a.xml", photos), tmp_path / "out")
    cup, plate, tilted = _masks(tmp_path / "out")
    turned = np.zeros((40, 60), bool)
    turned[0:20, 15:25] = True
    np.testing.assert_array_equal(cup, turned)
    assert abs(plate.sum() - np.pi * 15 * 8) < 12 and tilted[:10, 30:50].all() and tilted.sum() == 200
    assert len(_left_out(tmp_path / "out")) == 3


def _coco(photos: Path, *annotations: dict, **fields) -> Path:
    images = [{"id": 1, "file_name": "desk.jpg", "height": 40, "width": 60}, {"id": 2, "file_name": "none.jpg"}]
    content = {"images": images, "categories": [{"id": 3, "name": "cup"}], "annotations": list(annotations)}
    path = photos / "instances.json"
    path.write_text(json.dumps({**content, **fields}))
    return path


POLYGON = {"id": 7, "image_id": 1, "category_id": 3, "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]]}


def test_expressions_of_coco(photos, tmp_path):
    """A caption of the annotation comes before its category; captions of images and missing images are counted."""
    path = _coco(
        photos,
        POLYGON,
        {**POLYGON, "id": 8, "caption": "the left cup"},
        {"id": 9, "image_id": 1, "caption": "a desk with a cup"},
        {**POLYGON, "id": 10, "image_id": 2},
    )
    convert_annotations(AnnotationSource("coco", path, photos), tmp_path)
    assert [line["expression"] for line in _lines(tmp_path)] == ["cup", "the left cup"]
    assert [reason for reason, _ in _left_out(tmp_path)] == [
        "no mask, such as captions of whole images",
        "objects whose image is missing",
    ]


def test_rows_of_a_table_give_expression_split_and_category(photos, tmp_path):
    path, table = _coco(photos, POLYGON, {**POLYGON, "id": 8}), tmp_path / "table.csv"
    rows = [
        "annotation\texpression\tsplit\tcategory",
        '7\t"the,\nleft cup"\tval\tmug',
        "7\tmug\t\t",
        "7\tmug\t\t",
        "99\tno\t\t",
    ]
    table.write_text("\n".join(rows), encoding="utf-8-sig")
    assert not convert_annotations(AnnotationSource("coco", path, photos, table), tmp_path / "out").united
    assert [(line["expression"], line["split"], line["category"]) for line in _lines(tmp_path / "out")] == [
        ("the,\nleft cup", "val", "mug"),
        ("mug", "train", "cup"),
    ]
    assert _left_out(tmp_path / "out") == [
        ("no expression", f"{path}: annotation 8"),
        ("rows of the table that name no object", f"{table} line 6"),
    ]


def test_images_of_val_are_chosen_whole_and_always_the_same(scenes, refshapes, tmp_path):
    write, kind, name = WRITERS[0]
    write(scenes, tmp_path)
    source = AnnotationSource(kind, tmp_path / name, refshapes.directory / "images")
    for output in ("a", "b"):
        convert_annotations(source, tmp_path / output, val_images=4)
    assert _lines(tmp_path / "a") == _lines(tmp_path / "b")
    by_split = {
        split: {line["image"] for line in _lines(tmp_path / "a") if line["split"] == split}
        for split in ("train", "val")
    }
    assert {split: len(images) for split, images in by_split.items()} == {"train": 16, "val": 4}
    assert not by_split["train"] & by_split["val"]


def _masks_case(photos: Path, table: str, mask: Image.Image | None = None) -> tuple[AnnotationSource, Path]:
    masks = photos.parent / "masks"
    masks.mkdir()
    (mask or Image.fromarray(SQUARE.astype(np.uint8) * 3 + 2)).save(masks / "desk.png")
    (photos.parent / "table.csv").write_text(table)
    return AnnotationSource("masks", masks, photos, photos.parent / "table.csv"), photos.parent / "out"


def test_palette_masks_have_indices_and_colours(photos):
    picture = Image.fromarray(SQUARE.astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 128, 0])
    source, output = _masks_case(photos, "file,colour,expression\ndesk.png,255 128 0,cup\n", picture)
    convert_annotations(source, output)
    np.testing.assert_array_equal(_masks(output)[0], SQUARE)


def test_values_without_an_expression_are_counted(photos):
    source, output = _masks_case(photos, "file,index,expression\ndesk.png,5,cup\n")
    convert_annotations(source, output)
    np.testing.assert_array_equal(_masks(output)[0], SQUARE)
    assert _left_out(output) == [("no expression", f"{source.annotations}/desk.png: 2")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "line 1: the columns are none: write the header file,index,expression or file,colour,expression"),
        ("file,index,text\n", "write the header"),
        ("file,index,expression\ndesk.png,5\n", "line 2: 2 values for 3 columns"),
        ('file,index,expression\ndesk.png,5,"cup\ndesk.png,2,plate\n', "line 3: not a row of CSV"),
        ("file,index,expression\ndesk.png,five,cup\n", "line 2: the index is 'five': write a whole number"),
        ("file,colour,expression\ndesk.png,orange,cup\n", "the colour is 'orange': write it as #ff8000"),
        ("file,index,expression\ndesk.png,,cup\n", "line 2: no index"),
        ("file,index,expression,split\ndesk.png,5,cup,../x\n", "the split is"),
        ("file,index,expression\nroom.png,5,cup\n", "no object with a mask, an expression and an image"),
    ],
)
def test_mistakes_in_a_table_are_named_and_nothing_is_written(photos, table, message):
    source, output = _masks_case(photos, table)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        convert_annotations(source, output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("coco", "{", "is not JSON"),
        ("coco", "[]", "is a list, expected a JSON object"),
        ("coco", '{"images": {}}', "has no list of images: check that --from names the format"),
        ("coco", '{"images": [], "annotations": [{"id": 1, "image_id": [1]}]}', "annotation 1 has the image_id"),
        ("coco", '{"images": [{"id": 1}, {"id": 1}], "annotations": []}', "number 1 occurs twice"),
        ("labelme", "{}", "has no imagePath, imageHeight and imageWidth"),
        ("labelme", '{"imagePath": "..", "imageHeight": 4, "imageWidth": 6}', "has no imagePath"),
        ("labelme", '{"imagePath": "a.jpg", "imageHeight": 4, "imageWidth": 6}', "has no list of shapes"),
        ("cvat", "<a", "is not XML"),
        ("cvat", "<svg/>", "has the root <svg>"),
        ("cvat", '<annotations><image name="a"/></annotations>', "lacks name, height or width"),
        ("cvat", "<annotations/>", "no object with a mask"),
    ],
)
def test_damaged_files_are_named(photos, tmp_path, kind, content, message):
    (photos / "file").write_text(content)
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as caught:
        convert_annotations(AnnotationSource(kind, photos / "file", photos), tmp_path / "out")
    assert str(photos / "file") in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_shape("polygon", [[1, 2], [3]]), "shape 2 (polygon) cannot be read"),
        (_shape("circle", [[1, 2]]), "shape 2 (circle) cannot be read"),
        (_shape("mask", [[0, 0], [3, 3]], mask="!"), "shape 2 (mask) cannot be read"),
        (_shape("polygon", [[100, 100], [110, 100], [100, 110]]), "shape 2 covers no pixel"),
    ],
)
def test_damaged_shapes_are_named(photos, tmp_path, wrong, message):
    _labelme(photos, CUP, wrong)
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path / "out")


def test_unusable_masks_can_be_skipped(photos, tmp_path):
    Image.new("RGB", (30, 20)).save(photos / "small.jpg")
    _labelme(photos, CUP, _shape("polygon", [[100, 100], [110, 100], [100, 110]], "far"))
    _labelme(photos, CUP, name="small")
    source = AnnotationSource("labelme", photos, photos)
    with pytest.raises(UserError, match="covers no pixel"):
        convert_annotations(source, tmp_path / "out")
    convert_annotations(source, tmp_path / "out", skip=True)
    assert len(_lines(tmp_path / "out")) == 1
    reasons = dict(_left_out(tmp_path / "out")[::-1])
    assert "40 x 60 pixels (height x width)" in _left_out(tmp_path / "out")[1][1] and len(reasons) == 1


@pytest.mark.parametrize("number", [-1, 1, 5])
def test_val_leaves_images_for_training(photos, tmp_path, number, refuses):
    _labelme(photos, CUP)
    arguments = ["--from", "labelme", "--annotations", str(photos), "--output", str(tmp_path / "out")]
    assert f"--val_images is {number}" in refuses(main, [*arguments, "--val_images", str(number)])
