"""From a data set on disk to MindRecord files and meta.json."""
from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from src.config import Config
from src.data.mindrecord import split_files, write_split
from src.data.refer import read_refer
from src.data.referents import ReferDataset
from src.data.refshapes import RefShapesSettings, write_refshapes
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.files import atomic_path, make_directory

META_FILE = "meta.json"
FORMAT = 1  # of the MindRecord files; raised when their columns change
SPLIT_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google"),
            "referit": ("berkeley",), "refshapes": ("refshapes",)}


@dataclass(frozen=True)
class Prepared:
    """What `prepare` found and did.

    Attributes:
        counts: by split, numbers of images, referents and expressions.
        empty_sentences: expressions without a word, left out.
        written: whether MindRecord files were written, rather than found complete.
    """

    counts: dict[str, dict[str, int]]
    empty_sentences: int
    written: bool

    def table(self) -> str:
        """The counts, one line a split."""
        lines = [f"{'split':<8}{'images':>9}{'referents':>11}{'expressions':>13}"]
        lines += [f"{split:<8}{count['images']:>9,}{count['referents']:>11,}{count['expressions']:>13,}"
                  for split, count in self.counts.items()]
        if self.empty_sentences:
            lines.append(f"{self.empty_sentences:,} expressions without a word were left out")
        return "\n".join(lines)


def prepare(config: Config, output: Path, annotations: Path | None, images: Path | None, split_by: str | None,
            expressions: int, workers: int, check: bool) -> Prepared:
    """Makes `<output>/<split>.mindrecord` and meta.json, which is written last and only when all is complete.

    What was made before from the same sources and settings is kept. RefShapes is first made itself, in
    `<output>/source`, from `config.seed`.

    Args:
        config: gives dataset, vocab_file, max_tokens, seed.
        annotations, images, split_by: of a data set in the layout of REFER; None for RefShapes.
        expressions: of RefShapes' train split.
        workers: processes that make RefShapes.
        check: only read and check; nothing is written.

    Raises: UserError.
    """
    # First, because making RefShapes takes a while.
    tokenizer = Tokenizer(config.vocab_file, config.max_tokens)
    dataset = _read(config, output, annotations, images, split_by, expressions, workers, check)
    counts = {split: dataset.counts(split) for split in dataset.splits}
    if check:
        return Prepared(counts, sum(problem.expressions for problem in dataset.problems), written=False)
    meta = {"format": FORMAT, "dataset": config.dataset, "max_tokens": config.max_tokens,
            "vocabulary_sha256": tokenizer.vocabulary_sha256, "source_sha256": _source_sha256(dataset),
            "splits": counts}
    if _is_complete(output, meta):
        return Prepared(counts, sum(problem.expressions for problem in dataset.problems), written=False)
    make_directory(output)
    temporary = output / f".unfinished.{uuid.uuid4().hex[:8]}"
    try:
        make_directory(temporary)
        for split in dataset.splits:
            write_split(temporary, split, dataset, tokenizer)
        # From here to the new meta.json the directory is in between, which its absence says.
        (output / META_FILE).unlink(missing_ok=True)
        for split in dataset.splits:
            for path in split_files(temporary, split):
                path.replace(output / path.name)
        with atomic_path(output / META_FILE) as path:
            path.write_text(json.dumps(meta, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}): free some space or choose another "
                        "--output") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Prepared(counts, sum(problem.expressions for problem in dataset.problems), written=True)


def _read(config: Config, output: Path, annotations: Path | None, images: Path | None, split_by: str | None,
          expressions: int, workers: int, check: bool) -> ReferDataset:
    if config.dataset not in SPLIT_BY:
        raise UserError(f"there is no data set {config.dataset!r}: --dataset is one of {', '.join(SPLIT_BY)}")
    if config.dataset == "refshapes":
        if annotations or images or split_by:
            raise UserError("RefShapes is made, not read: leave out --annotations, --images and --split_by")
        source = output / "source"
        if check and not source.exists():
            raise UserError(f"{output} holds no RefShapes to check: leave out --check to make it")
        if not check:
            write_refshapes(source, RefShapesSettings(expressions, config.seed), workers)
        return read_refer(source, source / "images", "refshapes")
    if not annotations or not images:
        raise UserError(f"{config.dataset} is read from disk: give --annotations (the directory of refs and "
                        "instances.json) and --images")
    split_by = split_by or SPLIT_BY[config.dataset][0]
    if split_by not in SPLIT_BY[config.dataset]:
        raise UserError(f"{config.dataset} is not split by {split_by!r}: --split_by is one of "
                        f"{', '.join(SPLIT_BY[config.dataset])}")
    return read_refer(annotations, images, split_by)


def _source_sha256(dataset: ReferDataset) -> str:
    """Of the annotation files' content, and of the images' names and sizes."""
    digest = hashlib.sha256()
    for file in dataset.files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    for image in dataset.images.values():
        digest.update(f"{image.path.name} {image.path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _is_complete(output: Path, meta: dict) -> bool:
    try:
        found = json.loads((output / META_FILE).read_text())
    except (OSError, ValueError):
        return False
    return found == meta and all(path.is_file() for split in meta["splits"] for path in split_files(output, split))
