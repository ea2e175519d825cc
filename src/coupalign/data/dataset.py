"""Pipelines of mindspore.dataset over splits made by prepare_data.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from multiprocessing import cpu_count
from pathlib import Path

import mindspore
import numpy as np
from mindspore import dataset as ds
from mindspore.dataset import transforms, vision

from coupalign.config import Config
from coupalign.data.mindrecord import EXPRESSIONS, IMAGES, MASKS, OBJECT_SIDE, OBJECTS, record_file
from coupalign.data.prepared import check_split
from coupalign.data.transform import foreground, image_transforms, mask_decoding, mask_resizing, object_masks
from coupalign.errors import UserError

PARTS = (IMAGES, OBJECTS, MASKS, EXPRESSIONS)


class Split:
    """One split of a prepared data set. A row is one expression of one referent.

    Attributes:
        records: The columns of expressions, in row order: name -> (rows, ...) array. ref_id, image_id, ann_id, sent_id
            int64; height, width int32; expression, family, category str; token_ids, token_mask (rows, T) int32;
            image_row, mask_row int64, in the files of images and masks; baselines (rows, 4) int64, pixels of the image:
            intersection and union of the target with all objects of its class, and with the image's largest object.
        truncated: Number of expressions that are longer than max_tokens.
        unknown: Number of expressions with words outside the vocabulary.

    Raises:
        UserError: The split is missing, or was made for another vocabulary or length.
    """

    def __init__(self, config: Config, split: str):
        directory, meta = check_split(config, split)
        self.name = split
        self._files = {part: [str(record_file(directory, split, part))] for part in PARTS}
        self._image_size = config.model.image_size
        counts = meta["splits"][split]
        self._counts = {
            IMAGES: counts["images"],
            OBJECTS: counts["images"],
            MASKS: counts["referents"],
            EXPRESSIONS: counts["expressions"],
        }
        self.has_objects = Path(self._files[OBJECTS][0]).is_file()  # data sets made by earlier versions have none
        self.truncated, self.unknown = counts.get("truncated", 0), counts.get("unknown", 0)
        self.records = _columns(self._files[EXPRESSIONS][0])
        self._places = np.arange(counts["expressions"])  # of the rows in the file of expressions
        largest = self.records["token_ids"].max(initial=0)
        if largest >= config.model.bert_vocab_size:
            raise UserError(
                f"split {split} of {directory} has word piece {largest}, beyond the model's: set "
                f"bert_vocab_size above it (the number of lines of {config.data.vocab_file})"
            )

    def leave_out(self, images: np.ndarray) -> dict[str, int]:
        """Removes all rows of images by image_id; returns the numbers of images and expressions that are removed."""
        lost = np.isin(self.records["image_id"], images)
        counts = {"images": len(np.unique(self.records["image_id"][lost])), "expressions": int(lost.sum())}
        self.records = {name: column[~lost] for name, column in self.records.items()}
        self._places = self._places[~lost]
        return counts

    def __len__(self) -> int:
        return len(self.records["ref_id"])

    def indices(self, sentences: str, seed: int = 0) -> np.ndarray:
        """Returns row numbers, ascending, int64.

        Args:
            sentences: "all"; "first" of each referent; or "random", one per referent, drawn with `seed`.
        """
        if sentences == "all":
            return np.arange(len(self))
        ref_ids = self.records["ref_id"]
        starts = np.flatnonzero(np.r_[True, ref_ids[1:] != ref_ids[:-1]])
        if sentences == "first":
            return starts
        if sentences == "random":
            counts = np.diff(np.r_[starts, len(self)])
            return starts + np.random.Generator(np.random.PCG64(seed)).integers(counts)
        raise ValueError(f"sentences is all, first or random, not {sentences!r}")

    def train_batches(
        self, indices: Sequence[int] | np.ndarray, batch_size: int, num_workers: int, objects: int = 0
    ) -> ds.Dataset:
        """Returns rows in the order of `indices`, in batches; an incomplete last batch is dropped.

        Args:
            indices: Row numbers.
            num_workers: Number of threads, at most the number of processors.
            objects: K, number of objects of an image, the largest ones.

        Columns: image (B, 3, S, S) float32; token_ids, token_mask (B, T) int32; mask (B, S, S) float32, 0 or 1; with
        `objects` also objects (B, K, S/4, S/4) float32, 0 or 1.
        """
        data = self._rows(indices, num_workers, image_transforms(self._image_size), objects)
        operations = [*mask_decoding(), *mask_resizing(self._image_size), foreground(mindspore.float32)]
        data = _map(data, operations, "mask", num_workers)
        return data.batch(batch_size, drop_remainder=True)

    def samples(
        self, indices: Sequence[int] | np.ndarray, num_workers: int, objects: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Returns rows in the order of `indices`, one by one; arguments as in `train_batches`.

        Yields: image (3, S, S) float32; token_ids, token_mask (T,) int32; target (h, w) bool at the image's own size;
            input_target (S, S) bool; with `objects` also objects (K, S/4, S/4) float32, 0 or 1.
        """
        data = self._rows(indices, num_workers, image_transforms(self._image_size), objects)
        data = _map(data, [*mask_decoding(), transforms.Duplicate()], "mask", num_workers, ["target", "input_target"])
        data = _map(data, [foreground(mindspore.bool_)], "target", num_workers)
        data = _map(data, [*mask_resizing(self._image_size), foreground(mindspore.bool_)], "input_target", num_workers)
        return data.create_dict_iterator(num_epochs=1, output_numpy=True)

    def pictures(self, indices: Sequence[int] | np.ndarray, num_workers: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields rows in order of `indices`, at the image's own size: image (h, w, 3) uint8 RGB; target (h, w) bool."""
        data = self._rows(indices, num_workers, [])
        data = _map(data, [*mask_decoding(), foreground(mindspore.bool_)], "mask", num_workers, ["target"])
        return data.project(["image", "target"]).create_dict_iterator(num_epochs=1, output_numpy=True)

    def _rows(
        self, indices: Sequence[int] | np.ndarray, num_workers: int, transform: list, objects: int = 0
    ) -> ds.Dataset:
        """Returns rows with the image decoded and transformed, and the mask still encoded."""
        rows = np.asarray(indices)
        images = self._read(IMAGES, ["image"], self.records["image_row"][rows], num_workers)
        images = _map(images, [vision.Decode(), *transform], "image", num_workers)
        words = self._read(EXPRESSIONS, ["token_ids", "token_mask"], self._places[rows], num_workers)
        parts = [images, words, self._read(MASKS, ["mask"], self.records["mask_row"][rows], num_workers)]
        if objects:
            masks = self._read(OBJECTS, ["objects"], self.records["image_row"][rows], num_workers)
            operations = [*mask_decoding(), *object_masks(objects, OBJECT_SIDE, self._image_size // 4)]
            parts.append(_map(masks, operations, "objects", num_workers))
        return ds.zip(tuple(parts))

    def _read(self, part: str, columns: list[str], rows: np.ndarray, num_workers: int) -> ds.Dataset:
        # A sampler may repeat rows but not draw more than the file has; listing the file more often raises that limit.
        times = math.ceil(len(rows) / self._counts[part])
        return ds.MindDataset(
            self._files[part] * times,
            columns,
            sampler=ds.SubsetSampler(rows.tolist()),
            num_parallel_workers=min(num_workers, cpu_count()),
        )


class JoinedSplit(Split):
    """Rows of several splits, one split behind the other. ``ref_id`` and ``image_id`` may repeat between them.

    Attributes:
        starts: Number of the first row of each split.
    """

    def __init__(self, splits: Sequence[Split]):  # reads nothing, so it does not call Split's
        self.name = splits[0].name
        self.splits = splits
        self.starts = np.cumsum([0, *map(len, splits)])[:-1]
        self._image_size = splits[0]._image_size
        self._files = {part: [file for split in splits for file in split._files[part]] for part in PARTS}
        self._counts = {part: sum(split._counts[part] for split in splits) for part in PARTS}
        self.has_objects = all(split.has_objects for split in splits)
        self.truncated, self.unknown = sum(split.truncated for split in splits), sum(split.unknown for split in splits)
        columns = [dict(split.records) for split in splits]
        before = {part: np.cumsum([0, *(split._counts[part] for split in splits)]) for part in PARTS}
        for number, split in enumerate(splits):
            for name, part in (("image_row", IMAGES), ("mask_row", MASKS)):
                columns[number][name] = split.records[name] + before[part][number]
        self.records = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
        self._places = np.concatenate([split._places + before[EXPRESSIONS][n] for n, split in enumerate(splits)])


def image_ids(config: Config, split: str) -> np.ndarray:
    """Returns the image_id of all images of a split, ascending. Raises: UserError, as `Split`."""
    directory, _ = check_split(config, split)
    return np.unique(_columns(str(record_file(directory, split, EXPRESSIONS)), ["image_id"])["image_id"])


def _columns(file: str, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """Reads all rows of a MindRecord file, column by column; all columns, or `names`."""
    data = ds.MindDataset(file, names, shuffle=False, num_parallel_workers=1).batch(1024)
    blocks = list(data.create_dict_iterator(num_epochs=1, output_numpy=True))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _map(
    data: ds.Dataset, operations: list, column: str, num_workers: int, into: list[str] | None = None
) -> ds.Dataset:
    # MindSpore refuses more threads than processors.
    return data.map(operations, column, into, num_parallel_workers=min(num_workers, cpu_count()))
