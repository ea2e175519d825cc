"""Splits of a data set as MindRecord files."""
from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from mindspore.mindrecord import FileWriter
from tqdm import tqdm

from src.data.referents import Image, ReferDataset, Referent
from src.data.tokenizer import Tokenizer
from src.data.transform import decode_image
from src.errors import UserError

_ROWS_AT_ONCE = 256
_SCHEMA = {
    "image": {"type": "bytes"}, "mask": {"type": "bytes"},
    "token_ids": {"type": "int32", "shape": [-1]}, "token_mask": {"type": "int32", "shape": [-1]},
    "height": {"type": "int32"}, "width": {"type": "int32"},
    "image_id": {"type": "int64"}, "ref_id": {"type": "int64"}, "ann_id": {"type": "int64"},
    "sent_id": {"type": "int64"},
    "expression": {"type": "string"}, "family": {"type": "string"}, "category": {"type": "string"},
    "baselines": {"type": "int64", "shape": [-1]},
}
_SMALL = tuple(name for name in _SCHEMA if name not in ("image", "mask"))
_DTYPE = {"int32": np.int32, "int64": np.int64, "string": np.str_}


def split_files(directory: Path, split: str) -> tuple[Path, Path, Path]:
    """MindRecord, its index, and the small columns of a split."""
    record = directory / f"{split}.mindrecord"
    return record, record.with_name(f"{record.name}.db"), directory / f"{split}.npz"


def write_split(directory: Path, split: str, dataset: ReferDataset, tokenizer: Tokenizer) -> None:
    """Writes one row per referent and expression, in the order of referents, then of their sentences.

    Beside the MindRecord stands `<split>.npz` with all columns but image and mask: MindRecord reads whole rows,
    images included, whatever columns one asks for. A MindRecord knows its own name: its directory may be renamed,
    the file may not.

    Raises: UserError that names the image or annotation.
    """
    referents = dataset.of_split(split)
    record, index, columns = split_files(directory, split)
    writer = FileWriter(str(record), shard_num=1, overwrite=True)
    writer.add_schema(_SCHEMA, "referring image segmentation")
    small: dict[str, list] = {name: [] for name in _SMALL}
    chunk: list[dict] = []
    for row in _rows(tqdm(referents, desc=split, unit=" referents", disable=None), dataset, tokenizer):
        for name in _SMALL:
            small[name].append(row[name])
        chunk.append(row)
        if len(chunk) == _ROWS_AT_ONCE:
            writer.write_raw_data(chunk)
            chunk = []
    if chunk:
        writer.write_raw_data(chunk)
    writer.commit()
    np.savez_compressed(columns, **{name: np.array(values, _DTYPE[_SCHEMA[name]["type"]])
                                    for name, values in small.items()})
    # MindRecord's own files are for their owner only; a data set is for all who may read beside it.
    for file in (record, index):
        shutil.copymode(columns, file)


def _rows(referents: Iterable[Referent], dataset: ReferDataset, tokenizer: Tokenizer) -> Iterator[dict]:
    checked = set()
    for referent in referents:
        image = dataset.images[referent.image_id]
        content = np.fromfile(image.path, np.uint8)
        if referent.image_id not in checked:
            _check_image(content, image)
            checked.add(referent.image_id)
        target = dataset.mask(referent.ann_id)
        mask = cv2.imencode(".png", target.astype(np.uint8) * 255)[1].tobytes()
        baselines = _baselines(target, referent, dataset)
        for sentence in referent.sentences:
            token_ids, token_mask = tokenizer.encode(sentence.text)
            yield {"image": content.tobytes(), "mask": mask, "token_ids": token_ids, "token_mask": token_mask,
                   "height": image.height, "width": image.width, "image_id": referent.image_id,
                   "ref_id": referent.ref_id, "ann_id": referent.ann_id, "sent_id": sentence.sent_id,
                   "expression": sentence.text, "family": sentence.family, "category": referent.category,
                   "baselines": baselines}


def _check_image(content: np.ndarray, image: Image) -> None:
    size = decode_image(content, image.path).shape[:2]
    if size != (image.height, image.width):
        raise UserError(f"{image.path} is {size[0]} x {size[1]} pixels (height x width), instances.json says "
                        f"{image.height} x {image.width}: take the images that the annotations were made for")


def _baselines(target: np.ndarray, referent: Referent, dataset: ReferDataset) -> np.ndarray:
    """Intersection and union of the target with all objects of its class, and with the image's largest object.

    int64 [class intersection, class union, largest intersection, largest union] in pixels of the image. Other
    annotations that have no inside count as nothing.
    """
    category = dataset.annotations[referent.ann_id]["category_id"]
    of_class, largest = target.copy(), target
    for ann_id in dataset.annotations_of[referent.image_id]:
        if ann_id == referent.ann_id:
            continue
        try:
            other = dataset.mask(ann_id)
        except UserError:
            continue
        if dataset.annotations[ann_id].get("category_id") == category:
            of_class |= other
        if other.sum() > largest.sum():
            largest = other
    return np.array([np.sum(target & of_class), np.sum(target | of_class), np.sum(target & largest),
                     np.sum(target | largest)], np.int64)
