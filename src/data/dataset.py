"""Splits made by prepare_data.py, as mindspore.dataset pipelines."""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from multiprocessing import cpu_count
from pathlib import Path

import mindspore
import numpy as np
from mindspore import dataset as ds
from mindspore.dataset import transforms, vision

from src.config import Config
from src.data.mindrecord import split_files
from src.data.prepare import FORMAT, META_FILE
from src.data.tokenizer import Tokenizer
from src.data.transform import foreground, image_transforms, mask_decoding, mask_resizing
from src.errors import UserError
from src.files import find_file


class Split:
    """One split of a prepared data set. A row is one expression of one referent.

    Attributes:
        records: the columns but image and mask, in row order: name -> (rows, …) array. ref_id, image_id, ann_id,
            sent_id int64; height, width int32; expression, family, category str; token_ids, token_mask (rows, T)
            int32; baselines (rows, 4) int64.

    Raises: UserError if the split is missing, or was made for other words.
    """

    def __init__(self, config: Config, split: str):
        directory = find_file(config.data_dir)
        meta = _read_meta(directory)
        again = f"run prepare_data.py again with --output {directory}"
        if meta.get("format") != FORMAT:
            raise UserError(f"{directory} was made by another version of this program: {again}")
        if split not in meta["splits"]:
            raise UserError(f"{directory} has no split {split!r}: it has {', '.join(meta['splits'])}")
        if meta["dataset"] != config.dataset:
            raise UserError(f"{directory} holds {meta['dataset']}, the configuration says dataset {config.dataset}, "
                            f"which results would be named after: set --dataset {meta['dataset']}, or another data_dir")
        if meta["max_tokens"] != config.max_tokens:
            raise UserError(f"{directory} was made with max_tokens {meta['max_tokens']}, the configuration says "
                            f"{config.max_tokens}: {again} --max_tokens {config.max_tokens}")
        if meta["vocabulary_sha256"] != Tokenizer(config.vocab_file, config.max_tokens).vocabulary_sha256:
            raise UserError(f"{directory} was made with another vocabulary than {config.vocab_file}: {again} "
                            f"--vocab_file {config.vocab_file}")
        files = split_files(directory, split)
        for file in files:
            if not file.is_file():
                raise UserError(f"{file} is missing: {again}")
        self.name = split
        self._file = str(files[0])
        self._image_size = config.image_size
        with np.load(files[2], allow_pickle=False) as columns:
            self.records = {name: columns[name] for name in columns.files}
        largest = self.records["token_ids"].max(initial=0)
        if largest >= config.bert_vocab_size:
            raise UserError(f"split {split} of {directory} has word piece {largest}, beyond the model's: set "
                            f"bert_vocab_size above it (the number of lines of {config.vocab_file})")

    def __len__(self) -> int:
        return len(self.records["ref_id"])

    def indices(self, sentences: str, seed: int = 0) -> np.ndarray:
        """Row numbers, ascending, int64.

        Args:
            sentences: "all"; "first" of each referent; or "random", one of each referent drawn by `seed`.
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

    def train_batches(self, indices: Sequence[int], batch_size: int, num_workers: int) -> ds.Dataset:
        """Rows in the order of `indices`, in batches; a last one that is not full is left out.

        Args:
            indices: row numbers, no more than there are rows.
            num_workers: threads; more than there are processors is the same as all of them.

        Columns: image (B, 3, S, S) float32; token_ids, token_mask (B, T) int32; mask (B, S, S) float32, 0 or 1.
        """
        data = self._rows(indices, num_workers)
        data = _map(data, [*mask_decoding(), *mask_resizing(self._image_size), foreground(mindspore.float32)], "mask",
                    num_workers)
        return data.batch(batch_size, drop_remainder=True)

    def samples(self, indices: Sequence[int], num_workers: int) -> Iterator[dict[str, np.ndarray]]:
        """Rows in the order of `indices`, one by one; arguments as of `train_batches`.

        Yields: image (3, S, S) float32; token_ids, token_mask (T,) int32; target (h, w) bool at the image's own size;
            input_target (S, S) bool.
        """
        data = self._rows(indices, num_workers)
        data = _map(data, [*mask_decoding(), transforms.Duplicate()], "mask", num_workers, ["target", "input_target"])
        data = _map(data, [foreground(mindspore.bool_)], "target", num_workers)
        data = _map(data, [*mask_resizing(self._image_size), foreground(mindspore.bool_)], "input_target", num_workers)
        return data.create_dict_iterator(num_epochs=1, output_numpy=True)

    def _rows(self, indices: Sequence[int], num_workers: int) -> ds.Dataset:
        """Rows with the image ready and the mask as it is in the file."""
        data = ds.MindDataset(self._file, ["image", "token_ids", "token_mask", "mask"],
                              sampler=ds.SubsetSampler([int(i) for i in indices]),
                              num_parallel_workers=min(num_workers, cpu_count()))
        return _map(data, [vision.Decode(), *image_transforms(self._image_size)], "image", num_workers)


def _map(data: ds.Dataset, operations: list, column: str, num_workers: int, into: list[str] | None = None) -> ds.Dataset:
    # MindSpore refuses more threads than processors.
    return data.map(operations, column, into, num_parallel_workers=min(num_workers, cpu_count()))


def _read_meta(directory: Path) -> dict:
    """What prepare_data.py wrote down last."""
    path = directory / META_FILE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing, so {directory} holds no complete data set: make one with prepare_data.py "
                        f"--output {directory}, or set data_dir") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run prepare_data.py --output {directory} again") from error
