"""Sizes of the published data sets, and where to get their files.

The counts per split are those of the REFER tool's files. Referents and images come from the catalogue of TensorFlow
Datasets (ref_coco); expressions of RefCOCO, RefCOCO+ and G-Ref are confirmed by the sums below. Counts without a second
source are left out: all splits of ReferIt, and the expressions of RefCOCO's google splits.

Totals in the CoupAlign paper (section 4.1) differ from the sums of these splits:
- RefCOCO: the splits have 142,210 expressions, the paper says 142,209.
- G-Ref: the splits have 49,822 referents and 95,010 expressions on 25,799 images. The paper's 54,822 referents and
  26,711 images are those of the first release, whose test split was never published, and its 85,474 expressions are the
  google train split alone.
"""

from __future__ import annotations

from collections.abc import Mapping

KINDS = ("images", "referents", "expressions")
# By data set and author of the splits, by split: numbers of images, referents and expressions; None if unknown.
PUBLISHED: Mapping[tuple[str, str], Mapping[str, tuple[int, int, int | None]]] = {
    ("refcoco", "unc"): {
        "train": (16_994, 42_404, 120_624),
        "val": (1_500, 3_811, 10_834),
        "testA": (750, 1_975, 5_657),
        "testB": (750, 1_810, 5_095),
    },
    ("refcoco", "google"): {"train": (19_213, 40_000, None), "val": (4_559, 5_000, None), "test": (4_527, 5_000, None)},
    ("refcoco+", "unc"): {
        "train": (16_992, 42_278, 120_191),
        "val": (1_500, 3_805, 10_758),
        "testA": (750, 1_975, 5_726),
        "testB": (750, 1_798, 4_889),
    },
    ("refcocog", "umd"): {
        "train": (21_899, 42_226, 80_512),
        "val": (1_300, 2_573, 4_896),
        "test": (2_600, 5_023, 9_602),
    },
    ("refcocog", "google"): {"train": (24_698, 44_822, 85_474), "val": (4_650, 5_000, 9_536)},
}
# All splits together, in the paper.
PAPER: Mapping[str, tuple[int, int | None, int]] = {
    "refcoco": (19_994, 50_000, 142_209),
    "refcoco+": (19_992, 49_856, 141_564),
    "refcocog": (26_711, 54_822, 85_474),
    "referit": (19_894, None, 130_525),
}
# All splits together, as the authors of gRefCOCO say (GRES, CVPR 2023); counts per split have no second source.
AUTHORS: Mapping[str, Mapping[str, int]] = {"grefcoco": {"expressions": 278_232, "several": 80_022, "none": 32_202}}
_ARCHIVE = {"refcoco": "refcoco.zip", "refcoco+": "refcoco+.zip", "refcocog": "refcocog.zip", "referit": "refclef.zip"}
_REFER = "the REFER tool (github.com/lichengunc/refer)"


def where_to_get(dataset: str) -> str:
    """Names the sources of the annotations and images of a published data set."""
    if dataset == "grefcoco":
        annotations = "grefs(unc).json and instances.json of gRefCOCO (github.com/henghuiding/gRefCOCO)"
    else:
        annotations = f"{_ARCHIVE[dataset]} of {_REFER}"
    images = f"saiapr_tc-12.zip (19,997 images) of {_REFER}"
    if dataset != "referit":
        images = "2014 Train images (train2014.zip, 13 GB, 82,783 files) of COCO (cocodataset.org)"
    return f"annotations: {annotations}\nimages: {images}"


def compare(
    dataset: str, split_by: str, counts: Mapping[str, Mapping[str, int]], left_out: int = 0
) -> tuple[str, bool]:
    """Compares counts with the published ones.

    Args:
        counts: By split, the numbers of images, referents and expressions; of `several` and `none` where there are any.
        left_out: Number of expressions without a word, which may be missing from `counts`.

    Returns:
        One line per split, and whether no split is missing and none has fewer images, referents or expressions.
    """
    published = PUBLISHED.get((dataset, split_by), {})
    lines, complete = [], True
    for split in dict.fromkeys((*published, *counts)):
        found = counts.get(split, dict.fromkeys(KINDS, 0))
        expected = dict(zip(KINDS, published.get(split, (None,) * len(KINDS))))
        lines.append(f"{split}: " + ", ".join(_compared(kind, found[kind], expected[kind]) for kind in KINDS))
        complete &= all(
            number is None or found[kind] + left_out * (kind == "expressions") >= number
            for kind, number in expected.items()
        )
    if dataset in PAPER:
        who, said = "the CoupAlign paper says", dict(zip(KINDS[1:], PAPER[dataset][1:]))
    else:
        who, said = "its authors say", {"referents": None, **AUTHORS[dataset]}
    for kind, number in said.items():
        total = sum(count.get(kind, 0) for count in counts.values())
        what = f"expressions that name {kind}" if kind in ("several", "none") else kind
        lines.append(f"all splits: {total:,} {what}" + (f"; {who} {number:,}" if number else ""))
    return "\n".join(lines), complete


def _compared(kind: str, found: int, published: int | None) -> str:
    if published is None:
        return f"{found:,} {kind} (no published number)"
    if found == published:
        return f"{found:,} {kind} ok"
    return f"{found:,} {kind}, {abs(found - published):,} {'more' if found > published else 'fewer'} than published"
