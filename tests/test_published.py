"""The comparison of --check with the published data sets."""

from __future__ import annotations

import pytest

from coupalign.data.published import KINDS, PAPER, PUBLISHED, compare


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
    assert "train: 16,994 images ok, 42,404 referents ok, 120,624 expressions ok" in text
    assert "142,210 expressions; the CoupAlign paper says 142,209" in text
    counts["val"]["referents"] -= 1_200
    del counts["testA"]
    counts["other"] = {"images": 1, "referents": 2, "expressions": 3}
    text, complete = compare("refcoco", "unc", counts)
    assert not complete
    assert "val: 1,500 images ok, 2,611 referents, 1,200 fewer than published" in text
    assert "testA: 0 images, 750 fewer than published" in text
    assert "other: 1 images (no published number)" in text


def test_what_is_not_published_is_only_counted():
    assert compare("referit", "berkeley", {"train": {"images": 1, "referents": 2, "expressions": 3}})[1]
    assert compare("refcoco", "google", _counts("refcoco", "google"))[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_count_below_the_published_one_is_incomplete(kind):
    counts = _counts("refcoco", "unc")
    counts["val"][kind] -= 6
    assert not compare("refcoco", "unc", counts)[1]
    # Expressions without a word are left out of the counts, but they are there.
    assert compare("refcoco", "unc", counts, left_out=6)[1] == (kind == "expressions")
