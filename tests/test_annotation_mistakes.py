"""Mistakes and damage in tables and annotations: named at once, or skipped and listed."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from coupalign.annotations.convert import AnnotationSource, convert_annotations
from coupalign.commands.convert_annotations import main
from coupalign.errors import UserError
from tests.annotated_photos import (
    CUP,
    POLYGON,
    SQUARE,
    left_out_of,
    masks_case,
    masks_of,
    shape,
    write_coco,
    write_labelme,
)


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
    source, output = masks_case(photos, table)
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


OPAQUE = base64.b64encode(cv2.imencode(".png", np.full((1, 2, 4), (0, 0, 0, 255), np.uint8))[1]).decode()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (shape("polygon", [[1, 2], [3]]), "shape 2 (polygon) cannot be read"),
        (shape("circle", [[1, 2]]), "shape 2 (circle) cannot be read"),
        (shape("mask", [[0, 0], [3, 3]], mask="!"), "shape 2 (mask) cannot be read"),
        (
            shape("mask", [[0, 0], [1, 0]], mask=OPAQUE),
            "shape 2 (mask) cannot be read (its picture has several channels",
        ),
        (shape("polygon", [[100, 100], [110, 100], [100, 110]]), "shape 2 covers no pixel"),
    ],
)
def test_damaged_shapes_are_named(photos, tmp_path, wrong, message):
    write_labelme(photos, CUP, wrong)
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path / "out")


def test_an_image_of_another_size_is_refused(photos, tmp_path):
    Image.new("RGB", (30, 20)).save(photos / "desk.jpg")
    write_labelme(photos, CUP)
    with pytest.raises(UserError, match=r"40 x 60 pixels \(height x width\), .*desk.jpg has 20 x 30"):
        convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path / "out")


NAN, HUGE = float("nan"), 10**400  # 10**400 fits no float
UNUSABLE = "unusable shapes, masks, images or files"


def cvat_image(*shapes: str, name: str = "desk.jpg") -> str:
    return f'<image name="{name}" width="60" height="40">{"".join(shapes)}</image>'


def damaged_labelme(photos: Path) -> tuple[str, Path, int]:
    picture = shape("mask", [[0, 0], [29, 19]])
    wrong = [
        *(shape("polygon", points) for points in ([[1, 2], [NAN, 3], [4, 5]], [[1, 2], [3, 4]], [[1, 2], [3]], [], 5)),
        shape("polygon", [[HUGE, 2], [3, 4], [5, 6]]),
        shape("circle", [[1, 2]]),
        *({**picture, "mask": code} for code in ("!", None, "iVBORw0KGgo=", 7)),
        picture,  # without a picture
        shape("rectangle", [[20, 0], [25, 5]], group_id=1),  # half of the object that the next shape spoils
        shape("polygon", [[1, 2], [NAN, 3], [4, 5]], group_id=1),
    ]
    write_labelme(photos, CUP, *wrong)
    (photos / "room.json").write_text('{"imagePath": "room.png", ')
    write_labelme(photos, CUP, name="far", imagePath="far/far.jpg", imageData="!")
    write_labelme(photos, CUP, name="flat", imageHeight=0)
    return "labelme", photos, len(wrong) - 1 + 3


def damaged_coco(photos: Path) -> tuple[str, Path, int]:
    runs = {"size": [40, 60], "counts": [0, 2400]}
    wrong = [
        *(
            [points]
            for points in ([1, 2, NAN, 3, 4, 5], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], ["a"], [[1, 2]], [HUGE] * 6)
        ),
        *({**runs, "size": size} for size in ([60, 40], [40], None, [40, NAN])),
        *({**runs, "counts": counts} for counts in ([0, 9], [-1, 2401], [NAN], "\u00e9", "0", {}, None)),
        *("mask", 5, {"png": 3}),
    ]
    annotations = [{**POLYGON, "id": 100 + number, "segmentation": each} for number, each in enumerate(wrong)]
    return "coco", write_coco(photos, POLYGON, *annotations, {**POLYGON, "id": 8, "image_id": 9}), len(wrong) + 1


def damaged_cvat(photos: Path) -> tuple[str, Path, int]:
    mask = 'label="cup" left="0" top="0" width="2" height="2"'
    wrong = [
        *(f'<polygon label="cup" points="{points}"/>' for points in ("1,2;nan,3;4,5", "1,2;3,4", "1,2;3", "", "a,b")),
        '<box label="cup" xtl="1" ytl="2" xbr="inf" ybr="4"/>',
        '<box label="cup" xtl="1"/>',
        '<ellipse label="cup" cx="9" cy="9" rx="5" ry="4" rotation="nan"/>',
        *(f'<mask {mask} rle="{runs}"/>' for runs in ("3", "-1,5", "", f"{HUGE}", "0,4,0,9")),
        '<mask label="cup" left="59" top="0" width="2" height="2" rle="0,4"/>',
    ]
    good = '<box label="cup" xtl="10" ytl="5" xbr="30" ybr="15"/>'
    vast = (
        cvat_image(f'<mask {mask} rle="0,4"/>', name="room.png")
        .replace('"40"', f'"{10**6}"')
        .replace('"60"', f'"{10**6}"')
    )
    content = f'<annotations>{cvat_image(good, *wrong)}{vast}<image name="room.png" width="x"/></annotations>'
    (photos / "a.xml").write_text(content)
    return "cvat", photos / "a.xml", len(wrong) + 2


def damaged_masks(photos: Path) -> tuple[str, Path, int]:
    source, _ = masks_case(photos, "file,index,expression\ndesk.png,5,cup\n")
    content = (source.annotations / "desk.png").read_bytes()
    (source.annotations / "room.png").write_bytes(content[:-40])
    Image.new("RGB", (60, 40)).save(source.annotations / "colours.png")
    return "masks", source.annotations, 2


@pytest.mark.parametrize("write", [damaged_labelme, damaged_coco, damaged_cvat, damaged_masks])
def test_damaged_objects_and_files_are_skipped_and_listed(photos, tmp_path, write):
    """All that is left is the object that is not damaged."""
    kind, path, count = write(photos)
    table = tmp_path / "table.csv"
    source = AnnotationSource(kind, path, photos, table if table.exists() else None)
    with pytest.raises(UserError):
        convert_annotations(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert_annotations(source, tmp_path / "out", skip=True)
    (mask,) = masks_of(tmp_path / "out")
    np.testing.assert_array_equal(mask, SQUARE)
    listed = [name for reason, name in left_out_of(tmp_path / "out") if reason == UNUSABLE]
    assert len(listed) == count, listed
    assert all(str(path) in name for name in listed)


@pytest.mark.parametrize("number", [-1, 1, 5])
def test_val_leaves_images_for_training(photos, tmp_path, number, refuses):
    write_labelme(photos, CUP)
    arguments = ["--from", "labelme", "--annotations", str(photos), "--output", str(tmp_path / "out")]
    assert f"--val_images is {number}" in refuses(main, [*arguments, "--val_images", str(number)])
