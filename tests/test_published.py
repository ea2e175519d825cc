"""The comparison of --check with the published data sets."""

from __future__ import annotations

import pytest

from coupalign.data.published import KINDS, PAPER, PUBLISHED, check_files, compare
from tests.handmade_refer import Handmade


def _counts(dataset: str, split_by: str) -> dict[str, dict[str, int]]:
    return {
        split: {kind: number or 0 for kind, number in zip(KINDS, numbers, strict=True)}
        for split, numbers in PUBLISHED[dataset, split_by].items()
    }


def test_splits_add_up_to_the_papers_totals():
    total = {
        key: [sum(filter(None, numbers)) for numbers in zip(*splits.values(), strict=True)]
        for key, splits in PUBLISHED.items()
    }
    assert total["refcoco+", "unc"] == list(PAPER["refcoco+"])
    assert total["refcoco", "unc"] == [19_994, 50_000, 142_210]  # one expression more than the paper says
    assert total["refcoco", "google"][1] == 50_000
    # Two ways to split the same referents.
    assert total["refcocog", "umd"][1:] == total["refcocog", "google"][1:] == [49_822, 95_010]


def test_counts_are_ok_or_differ_by_so_many():
    counts = _counts("refcoco", "unc")
    text, complete = compare("refcoco", "unc", counts)
    assert complete
    lines = text.splitlines()
    assert lines[0] == "train: 16,994 images ok, 42,404 referents ok, 120,624 expressions ok"
    assert lines[4] == (
        "all splits: 50,000 referents, 142,210 expressions; the CoupAlign paper says 19,994 images, "
        "50,000 referents, 142,209 expressions"
    )
    counts["val"]["referents"] -= 1_200
    counts["val"]["expressions"] += 1
    del counts["testA"]
    counts["other"] = {"images": 1, "referents": 2, "expressions": 3}
    text, complete = compare("refcoco", "unc", counts)
    assert not complete
    lines = text.splitlines()
    assert "2,611 referents, 1,200 fewer than published, 10,835 expressions, 1 more than published" in lines[1]
    assert lines[2].startswith("testA: missing") and "no published numbers" in lines[4]


def test_what_is_not_published_is_only_counted():
    text, complete = compare("referit", "berkeley", {"train": {"images": 1, "referents": 2, "expressions": 3}})
    assert complete
    assert "train: 1 images, 2 referents, 3 expressions; no published numbers" in text
    assert "the CoupAlign paper says 19,894 images, 130,525 expressions" in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_count_below_the_published_one_is_incomplete(kind):
    counts = _counts("refcoco", "unc")
    counts["val"][kind] -= 6
    assert not compare("refcoco", "unc", counts)[1]
    # Expressions without a word are left out of the counts, but they are there.
    assert compare("refcoco", "unc", counts, left_out=6)[1] == (kind == "expressions")


@pytest.mark.parametrize(
    ("dataset", "archive", "images"),
    [
        ("refcoco", "refcoco.zip", "cocodataset.org"),
        ("refcoco+", "refcoco+.zip", "cocodataset.org"),
        ("refcocog", "refcocog.zip", "cocodataset.org"),
        ("referit", "refclef.zip", "saiapr_tc-12.zip"),
    ],
)
def test_everything_that_is_missing_is_listed_with_its_source(tmp_path, dataset, archive, images):
    for directory, pictures in ((None, None), (tmp_path, tmp_path), (tmp_path / "none", tmp_path / "nowhere")):
        text, complete = check_files(dataset, "unc", directory, pictures)
        assert not complete
        for part in (f"github.com/lichengunc/refer: {archive}", images, "refs(unc).p", "instances.json"):
            assert part in text


def test_existing_files_are_found(tmp_path):
    data = Handmade(tmp_path)
    data.write("google")
    text, complete = check_files("refcocog", "google", data.annotations, data.images)
    assert complete
    assert "from" not in text
    text, complete = check_files("refcocog", "umd", data.annotations, data.images)
    assert not complete
    assert "instances.json: found" in text and "holds images" in text
    assert "refs(google).p: set --split_by google" in text
    for path in data.images.iterdir():
        path.unlink()
    text, _ = check_files("refcocog", "google", data.annotations, data.images)
    assert f"{data.images}: holds no images; from COCO" in text
