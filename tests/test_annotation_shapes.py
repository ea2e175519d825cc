"""Shapes of LabelMe and CVAT, and palettes, become the masks of objects; several shapes may be one object."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from PIL import Image

from coupalign.annotations.convert import AnnotationSource, convert_annotations
from coupalign.commands.convert_annotations import main
from coupalign.errors import UserError
from tests.annotated_photos import CUP, SQUARE, left_out_of, lines_of, masks_case, masks_of, shape, write_labelme


def test_shapes_of_labelme(photos, tmp_path, capsys):
    """Areas by their formulas; what has no area is counted."""
    write_labelme(
        photos,
        CUP,
        shape("circle", [[30, 20], [30, 32]], "plate"),
        shape("polygon", [[0, 0], [20, 0], [0, 20]], "corner"),
        shape("linestrip", [[0, 0], [20, 0]], "edge"),
        shape("point", [[3, 4]], "dot"),
        shape("spiral", [[3, 4]], "spring"),
        shape("rectangle", [[40, 0], [50, 10]], ""),
        shape("rectangle", [[40, 0], [50, 10]], "!!!"),
    )
    assert main(["--from", "labelme", "--annotations", str(photos), "--output", str(tmp_path / "out")]) == 0
    assert [(line["image"], line["expression"], line["category"]) for line in lines_of(tmp_path / "out")] == [
        ("../photos/desk.jpg", label, label) for label in ("cup", "plate", "corner")
    ]
    cup, plate, corner = masks_of(tmp_path / "out")
    np.testing.assert_array_equal(cup, SQUARE)
    assert abs(plate.sum() - np.pi * 12**2) < 12 and abs(corner.sum() - 200) <= 20
    reasons = [reason for reason, _ in left_out_of(tmp_path / "out")]
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
    write_labelme(
        photos,
        shape("rectangle", [[0, 0], [5, 5]], "cup", group_id=1, description="the left cup\nsmall cup"),
        shape("rectangle", [[10, 0], [15, 5]], "cup", group_id=1),
        shape("rectangle", [[20, 0], [25, 5]], "cup", group_id=2, description="small cup"),
        shape("rectangle", [[30, 0], [35, 5]], "lid"),
        shape("rectangle", [[40, 0], [45, 5]], "lid"),
    )
    conversion = convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path)
    columns = [sorted(set(np.nonzero(mask)[1] // 10)) for mask in masks_of(tmp_path)]
    assert [line["expression"] for line in lines_of(tmp_path)] == ["the left cup", "small cup", "lid"]
    assert columns == [[0, 1], [0, 1, 2], [3, 4]]
    assert len(conversion.united) == 2 and "small cup" in conversion.united[0]


def test_one_expression_for_objects_of_several_labels_is_one_line(photos, tmp_path):
    plate = shape("rectangle", [[40, 0], [50, 10]], "plate", description="the dishes")
    write_labelme(photos, {**CUP, "description": "the dishes"}, plate)
    convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path)
    assert [(line["expression"], line["category"]) for line in lines_of(tmp_path)] == [("the dishes", "cup, plate")]
    assert masks_of(tmp_path)[0].sum() == SQUARE.sum() + 100


def test_images_inside_labelme_files_become_files(photos, tmp_path):
    content = (photos / "desk.jpg").read_bytes()
    (photos / "desk.jpg").unlink()
    write_labelme(photos, CUP, imageData=base64.b64encode(content).decode())
    convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path / "out")
    assert [line["image"] for line in lines_of(tmp_path / "out")] == ["images/desk.jpg"]
    assert (tmp_path / "out/images/desk.jpg").read_bytes() == content


def test_different_images_of_one_name_inside_labelme_files_are_refused(photos, tmp_path):
    (photos / "desk.jpg").unlink()
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (60, 40), colour).save(tmp_path / "desk.png")
        content = base64.b64encode((tmp_path / "desk.png").read_bytes()).decode()
        write_labelme(photos, CUP, name=f"file{number}", imagePath=f"{number}/desk.jpg", imageData=content)
    with pytest.raises(UserError, match="different image desk.jpg"):
        convert_annotations(AnnotationSource("labelme", photos, photos), tmp_path / "out")


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
    cup, plate, tilted = masks_of(tmp_path / "out")
    turned = np.zeros((40, 60), bool)
    turned[0:20, 15:25] = True
    np.testing.assert_array_equal(cup, turned)
    assert abs(plate.sum() - np.pi * 15 * 8) < 12 and tilted[:10, 30:50].all() and tilted.sum() == 200
    assert len(left_out_of(tmp_path / "out")) == 3


def test_palette_masks_have_indices_and_colours(photos):
    picture = Image.fromarray(SQUARE.astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 128, 0])
    source, output = masks_case(photos, "file,colour,expression\ndesk.png,255 128 0,cup\n", picture)
    convert_annotations(source, output)
    np.testing.assert_array_equal(masks_of(output)[0], SQUARE)
