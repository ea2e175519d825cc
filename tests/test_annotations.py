"""Annotations of other programs become the same masks and the same training input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coupalign.annotations.convert import AnnotationSource, convert_annotations
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.json_lines import read_json_lines
from coupalign.data.prepare import prepare
from coupalign.data.refer import read_refer
from coupalign.data.tokenizer import Tokenizer
from tests.annotated_photos import POLYGON, SQUARE, left_out_of, lines_of, masks_case, masks_of, write_coco
from tests.annotation_files import WRITERS, Scene, read_scenes
from tests.conftest import TINY

SCENES = 20


@pytest.fixture(scope="module")
def scenes(refshapes) -> list[Scene]:
    found = read_scenes(refshapes, "train", SCENES)
    assert len(found) == SCENES
    return found


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
    for mask, drawn in zip(masks_of(tmp_path / "coco_runs/out"), expected, strict=True):
        np.testing.assert_array_equal(mask, drawn)
    lines = read_json_lines(tmp_path / "coco_runs/out/annotations.jsonl", tmp_path / "coco_runs/out")
    refer = read_refer(refshapes.directory, images, "refshapes")
    files = {scene.image for scene in scenes}
    used = [r for r in refer.referents if refer.images[r.image_id].path.name in files and r.split == "train"]
    ours = _inputs(lines, tmp_path / "ours")
    theirs = _inputs(type(refer)(**{**vars(refer), "referents": tuple(used)}), tmp_path / "theirs")
    assert ours == theirs and len(ours) >= SCENES


def test_expressions_of_coco(photos, tmp_path):
    """A caption of the annotation comes before its category; captions of images and missing images are counted."""
    path = write_coco(
        photos,
        POLYGON,
        {**POLYGON, "id": 8, "caption": "the left cup"},
        {"id": 9, "image_id": 1, "caption": "a desk with a cup"},
        {**POLYGON, "id": 10, "image_id": 2},
    )
    convert_annotations(AnnotationSource("coco", path, photos), tmp_path)
    assert [line["expression"] for line in lines_of(tmp_path)] == ["cup", "the left cup"]
    assert [reason for reason, _ in left_out_of(tmp_path)] == [
        "no mask, such as captions of whole images",
        "objects whose image is missing",
    ]


def test_rows_of_a_table_give_expression_split_and_category(photos, tmp_path):
    path, table = write_coco(photos, POLYGON, {**POLYGON, "id": 8}), tmp_path / "table.csv"
    rows = [
        "annotation\texpression\tsplit\tcategory",
        '7\t"the,\nleft cup"\tval\tmug',
        "7\tmug\t\t",
        "7\tmug\t\t",
        "99\tno\t\t",
    ]
    table.write_text("\n".join(rows), encoding="utf-8-sig")
    assert not convert_annotations(AnnotationSource("coco", path, photos, table), tmp_path / "out").united
    assert [(line["expression"], line["split"], line["category"]) for line in lines_of(tmp_path / "out")] == [
        ("the,\nleft cup", "val", "mug"),
        ("mug", "train", "cup"),
    ]
    assert left_out_of(tmp_path / "out") == [
        ("no expression", f"{path}: annotation 8"),
        ("rows of the table that name no object", f"{table} line 6"),
    ]


def test_images_of_val_are_chosen_whole_and_always_the_same(scenes, refshapes, tmp_path):
    write, kind, name = WRITERS[0]
    write(scenes, tmp_path)
    source = AnnotationSource(kind, tmp_path / name, refshapes.directory / "images")
    for output in ("a", "b"):
        convert_annotations(source, tmp_path / output, val_images=4)
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")
    by_split = {
        split: {line["image"] for line in lines_of(tmp_path / "a") if line["split"] == split}
        for split in ("train", "val")
    }
    assert {split: len(images) for split, images in by_split.items()} == {"train": 16, "val": 4}
    assert not by_split["train"] & by_split["val"]


def test_values_without_an_expression_are_counted(photos):
    source, output = masks_case(photos, "file,index,expression\ndesk.png,5,cup\n")
    convert_annotations(source, output)
    np.testing.assert_array_equal(masks_of(output)[0], SQUARE)
    assert left_out_of(output) == [("no expression", f"{source.annotations}/desk.png: 2")]
