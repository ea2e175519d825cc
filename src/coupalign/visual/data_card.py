"""An HTML page that describes a prepared data set."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.data.prepared import read_meta
from coupalign.errors import UserError
from coupalign.evaluation.result import SYNTHETIC
from coupalign.files import find_file
from coupalign.overlay import overlay
from coupalign.visual.figures import jpeg_uri, write_page

_WORDS = 30
_SIDE = 320
_AREAS = (0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)


def write_card(config: Config, path: Path, samples: int) -> None:
    """Writes one HTML file with counts, lengths of expressions, mask areas, words and sample images of each split.

    Args:
        path: The HTML file.
        samples: Referents to show from each split, drawn by the configuration's seed.

    Raises:
        UserError: `config.data.data_dir` holds no complete data set.
    """
    meta = read_meta(find_file(config.data.data_dir))
    if not meta:
        raise UserError(
            f"{config.data.data_dir} holds no complete data set: make one with prepare_data.py, or set data_dir"
        )
    synthetic = "This data set is synthetic. " * (config.data.dataset == SYNTHETIC)
    about = (
        f"Prepared with {config.model.max_tokens} word pieces per expression; fingerprint {meta['fingerprint'][:16]}."
    )
    splits = [
        _describe(config, Split(config, name), meta["splits"][name], samples)
        for name in tqdm(meta["splits"], desc="splits", disable=None)
    ]
    write_page(path, "data_card.html", {"dataset": config.data.dataset, "about": synthetic + about, "splits": splits})


def _describe(config: Config, split: Split, counts: dict[str, int], samples: int) -> dict:
    records = split.records
    full = int((records["token_mask"].sum(1) == config.model.max_tokens).sum())
    words = [re.findall(r"\w+", expression.lower()) for expression in records["expression"].tolist()]
    areas = np.histogram(split.areas(config.data.num_workers), _AREAS)[0].tolist()
    tables = {
        "Families of expressions": Counter(records["family"].tolist()).most_common(),
        "Words per expression": sorted(Counter(map(len, words)).items()),
        "Share of the image covered by a referent": [
            (f"{low:g} to {high:g}", count) for low, high, count in zip(_AREAS, _AREAS[1:], areas)
        ],
        "Most frequent words": Counter(word for each in words for word in each).most_common(_WORDS),
    }
    if not any(records["family"].tolist()):
        del tables["Families of expressions"]
    return {
        "name": split.name,
        "counts": f"{counts['images']:,} images, {counts['referents']:,} referents, {counts['expressions']:,} "
        f"expressions, {len(set(records['category'].tolist())):,} categories; {full:,} expressions fill all "
        f"{config.model.max_tokens} word pieces and may be truncated.",
        "tables": tables,
        "samples": _samples(config, split, samples),
    }


def _samples(config: Config, split: Split, samples: int) -> list[dict]:
    mask_rows, firsts = np.unique(split.records["mask_row"], return_index=True)
    chosen = np.random.Generator(np.random.PCG64(config.run.seed)).permutation(len(mask_rows))[:samples]
    if not len(chosen):
        return []
    shown = []
    for choice, picture in zip(chosen, split.pictures(firsts[chosen], config.data.num_workers)):
        same = split.records["mask_row"] == mask_rows[choice]
        drawn = overlay(picture["image"], picture["target"])
        shown.append({"address": jpeg_uri(drawn, _SIDE), "expressions": split.records["expression"][same].tolist()})
    return shown
