"""What is in a prepared data set, as a page to look at."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.data.prepared import read_meta
from coupalign.errors import UserError
from coupalign.files import atomic_path, find_file
from coupalign.overlay import jpeg_uri, overlay

_WORDS = 30
_SIDE = 320  # of a sample's picture, in pixels
_AREAS = (0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
_STYLE = """body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .15em .8em; text-align: right } td:first-child { text-align: left }
.bar { background: #4a7fb5; height: .8em } .samples { display: flex; flex-wrap: wrap; gap: 1em }
figure { margin: 0; width: 320px } figcaption { font-size: 90% }"""


def write_card(config: Config, path: Path, samples: int) -> None:
    """Writes a page of HTML that needs no other file: for each split its counts, lengths of expressions, areas of
    masks, words, and sample pictures with masks and expressions, drawn by `config.run.seed`.

    Args:
        path: of the page.
        samples: referents shown of each split.

    Raises: UserError where `config.data.data_dir` holds no complete data set.
    """
    meta = read_meta(find_file(config.data.data_dir))
    if not meta:
        raise UserError(
            f"{config.data.data_dir} holds no complete data set: make one with prepare_data.py, or set data_dir"
        )
    about = (
        f"Prepared with {config.model.max_tokens} word pieces an expression; fingerprint {meta['fingerprint'][:16]}."
    )
    if config.data.dataset == "refshapes":
        about = f"This data set is synthetic. {about}"
    page = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(config.data.dataset)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(config.data.dataset)}</h1><p>{html.escape(about)}</p>",
    ]
    for name in tqdm(meta["splits"], desc="splits", disable=None):
        page += _split(config, Split(config, name), meta["splits"][name], samples)
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(page), encoding="utf-8")


def _split(config: Config, split: Split, counts: dict[str, int], samples: int) -> list[str]:
    expressions = split.records["expression"].tolist()
    pieces = split.records["token_mask"].sum(1)
    words = [re.findall(r"\w+", expression.lower()) for expression in expressions]
    page = [
        f"<h2>{html.escape(split.name)}</h2>",
        f"<p>{counts['images']:,} images, {counts['referents']:,} referents, {counts['expressions']:,} expressions, "
        f"{len(set(split.records['category'].tolist())):,} categories; "
        f"{np.sum(pieces == config.model.max_tokens):,} expressions fill all {config.model.max_tokens} word pieces and may be "
        "cut.</p>",
    ]
    if any(split.records["family"].tolist()):
        page += ["<h3>Families of expressions</h3>", *_bars(Counter(split.records["family"].tolist()).most_common())]
    lengths = Counter(len(each) for each in words)
    areas = np.histogram(split.areas(config.data.num_workers), _AREAS)[0]
    return [
        *page,
        "<h3>Words an expression</h3>",
        *_bars(sorted(lengths.items())),
        "<h3>Share of the image a referent covers</h3>",
        *_bars([(f"{low:g} to {high:g}", count) for low, high, count in zip(_AREAS, _AREAS[1:], areas)]),
        "<h3>Most frequent words</h3>",
        *_bars(Counter(word for each in words for word in each).most_common(_WORDS)),
        "<h3>Samples</h3><div class=samples>",
        *_samples(config, split, samples),
        "</div>",
    ]


def _samples(config: Config, split: Split, samples: int) -> list[str]:
    mask_rows, firsts = np.unique(split.records["mask_row"], return_index=True)
    random = np.random.Generator(np.random.PCG64(config.run.seed))
    chosen = random.permutation(len(mask_rows))[:samples]
    figures = []
    for choice, picture in zip(chosen, split.pictures(firsts[chosen], config.data.num_workers) if samples else ()):
        same = split.records["mask_row"] == mask_rows[choice]
        uri = jpeg_uri(overlay(picture["image"], picture["target"]), _SIDE)
        said = "<br>".join(html.escape(expression) for expression in split.records["expression"][same].tolist())
        figures.append(f'<figure><img src="{uri}" alt=""><figcaption>{said}</figcaption></figure>')
    return figures


def _bars(rows: Sequence[tuple[object, int]]) -> list[str]:
    """A table of labels and counts, with a bar each."""
    most = max((count for _, count in rows), default=1)
    return [
        "<table>",
        *(
            f"<tr><td>{html.escape(str(label))}<td>{count:,}<td style='width: 30em'>"
            f"<div class=bar style='width: {100 * count / max(most, 1):.1f}%'></div>"
            for label, count in rows
        ),
        "</table>",
    ]
