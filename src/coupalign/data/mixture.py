"""Several data sets as one training split, without images that one of them evaluates on."""

from __future__ import annotations

import numpy as np

from coupalign.config import Config
from coupalign.data.dataset import JoinedSplit, Split, image_ids
from coupalign.data.prepared import check_split
from coupalign.errors import UserError

# Their image_id is COCO's. Ids of any other data set are its own.
COCO = ("refcoco", "refcoco+", "refcocog", "grefcoco")


def training_split(config: Config) -> tuple[Split, list[str]]:
    """Opens ``train_split`` of the data set, or of all data sets, one behind the other.

    With several data sets, images that are also in another split of one of them are left out: a model must not have
    seen them when that split is evaluated. They are recognised by image_id, which all data sets on COCO's images share.

    Returns: The split, and one line per data set about what is left out.

    Raises: UserError if a split is missing or does not fit, or if nothing is left of one.
    """
    configs, name = config.data_sets(), config.training.train_split
    if len(configs) == 1:
        return Split(config, name), []
    evaluated: dict[str, list[tuple[str, np.ndarray]]] = {}
    for each in configs:
        _, meta = check_split(each, name)
        for split in meta["splits"]:
            if split != name:
                held = image_ids(each, split)
                evaluated.setdefault(_id_space(each), []).append((f"{each.data.name} {split}", held))
    splits, lines = [], []
    for each in configs:
        split = Split(each, name)
        sources = evaluated.get(_id_space(each), [])
        shared = [where for where, ids in sources if np.isin(split.records["image_id"], ids).any()]
        lost = split.leave_out(np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in sources)]))
        if not len(split):
            raise UserError(
                f"all images of {each.data.name} {name} are also in {', '.join(shared)}: leave {each.data.name} out of "
                "dataset and data_dir"
            )
        where = f", which are also in {', '.join(shared)}" if shared else ""
        lines.append(
            f"{each.data.name} {name}: {lost['images']:,} images with {lost['expressions']:,} expressions left "
            f"out{where}; {len(split):,} expressions remain"
        )
        splits.append(split)
    return JoinedSplit(splits), lines


def _id_space(config: Config) -> str:
    return "COCO" if config.data.name in COCO else config.data.name
