"""From a data set on disk to MindRecord files and meta.json."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from coupalign.config import Config
from coupalign.data.convert import Pixels, Scene, convert, read_pixels, scenes_of
from coupalign.data.json_lines import read_json_lines
from coupalign.data.mindrecord import split_files, write_split
from coupalign.data.prepared import FORMAT, META_FILE, missing_files, read_meta
from coupalign.data.refer import read_refer
from coupalign.data.referents import Problem, ReferDataset
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import atomic_path, make_directory, sha256
from coupalign.refshapes import RefShapesSettings, write_refshapes

SKIPPED_FILE = "skipped.jsonl"
SPLIT_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google"), "referit": ("berkeley",)}
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        annotations: directory of refs(<split_by>).p and instances.json, or a file of JSON Lines; None for RefShapes.
        images: directory of images; None for RefShapes.
        split_by: who split it, for data sets that several have split; None is the data set's first.
        expressions: of RefShapes' train split.
        skip: leave out what cannot be used, rather than stop at it.
    """

    annotations: Path | None = None
    images: Path | None = None
    split_by: str | None = None
    expressions: int = 20000
    skip: bool = False


@dataclass(frozen=True)
class Prepared:
    """What `prepare` found and did.

    Attributes:
        counts: by split, numbers of images, referents and expressions.
        problems: what was left out.
        written: whether MindRecord files were written, rather than found complete.
    """

    counts: Mapping[str, Mapping[str, int]]
    problems: tuple[Problem, ...]
    written: bool

    def table(self) -> str:
        """The counts, one line a split, and what was left out."""
        lines = [f"{'split':<8}{'images':>9}{'referents':>11}{'expressions':>13}"]
        lines += [
            f"{split:<8}{count['images']:>9,}{count['referents']:>11,}{count['expressions']:>13,}"
            for split, count in self.counts.items()
        ]
        if self.problems:
            kinds = [problem.kind for problem in self.problems]
            listed = ", ".join(f"{kinds.count(kind):,} x {kind}" for kind in dict.fromkeys(kinds))
            lines.append(
                f"left out: {listed}; with them {sum(p.referents for p in self.problems):,} referents and "
                f"{sum(p.expressions for p in self.problems):,} expressions"
            )
        return "\n".join(lines)


def prepare(config: Config, output: Path, source: Source, workers: int) -> Prepared:
    """Makes the MindRecord files of every split, and meta.json, which is written last and only when all is complete.

    Stopped at any moment and started again, it goes on where it was. What is complete, and made from the same files with
    the same settings, is kept. RefShapes is first made itself, in `<output>/source`, from `config.run.seed`. What was
    left out is listed in skipped.jsonl.

    Args:
        config: gives dataset, vocab_file, max_tokens, seed.
        workers: processes.

    Raises: UserError.
    """
    # First, because making RefShapes takes a while.
    tokenizer = Tokenizer(config.data.vocab_file, config.model.max_tokens)
    if config.data.dataset == "refshapes":
        _refuse_source(source)
        write_refshapes(output / "source", RefShapesSettings(source.expressions, config.run.seed), workers)
    dataset = read_dataset(config.data.dataset, output, source)
    settings = {
        "format": FORMAT,
        "dataset": config.data.dataset,
        "max_tokens": config.model.max_tokens,
        "vocabulary_sha256": tokenizer.vocabulary_sha256,
        "source_sha256": _source_sha256(dataset),
        "on_error": "skip" if source.skip else "stop",
    }
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    meta = read_meta(output)
    if meta.get("fingerprint") == fingerprint and not missing_files(output, meta):
        return Prepared(meta["splits"], _read_problems(output), written=False)
    make_directory(output)
    with _alone_in(output):
        work = output / f"{_UNFINISHED}{fingerprint[:16]}"
        for other in output.glob(f"{_UNFINISHED}*"):
            if other != work:
                shutil.rmtree(other)
        try:
            make_directory(work)
            splits = {
                split: _make_split(work, dataset, split, tokenizer, fingerprint, source.skip, workers)
                for split in dataset.splits
            }
            problems = [*dataset.problems, *(Problem(**each) for made in splits.values() for each in made["problems"])]
            counts = {
                split: {name: made[name] for name in ("images", "referents", "expressions")}
                for split, made in splits.items()
            }
            _finish(work, output, {**settings, "fingerprint": fingerprint, "splits": counts}, problems)
        except OSError as error:
            raise UserError(
                f"{output} cannot be written ({error.strerror or error}): free some space or choose "
                "another --output; what is finished is kept"
            ) from error
    return Prepared(counts, tuple(problems), written=True)


def read_dataset(name: str, output: Path, source: Source) -> ReferDataset:
    """The data set `name`, checked, from its annotation files. Raises: UserError."""
    if name == "refshapes":
        _refuse_source(source)
        made = output / "source"
        if not made.exists():
            raise UserError(f"{output} holds no RefShapes to check: leave out --check to make it")
        return read_refer(made, made / "images", "refshapes")
    if not source.annotations:
        raise UserError(
            f"{name} is read from disk: give --annotations, the directory of refs(<split_by>).p and "
            "instances.json or a file of JSON Lines, and --images"
        )
    if source.annotations.suffix == ".jsonl":
        if source.split_by:
            raise UserError("a file of JSON Lines says itself how it is split: leave out --split_by")
        return read_json_lines(source.annotations, source.images or source.annotations.parent, source.skip)
    if not source.images:
        raise UserError(f"{name} is read from disk: give --images, the directory of its images")
    return read_refer(source.annotations, source.images, split_by(name, source.split_by), source.skip)


def split_by(name: str, wanted: str | None) -> str:
    """Who split a data set of the REFER tool: `wanted`, or the data set's first. Raises: UserError."""
    if name not in SPLIT_BY:
        raise UserError(
            f"there is no data set {name!r} in the layout of the REFER tool: --dataset is one of "
            f"{', '.join(SPLIT_BY)}, or name a file of JSON Lines with --annotations for data of your own"
        )
    if wanted is not None and wanted not in SPLIT_BY[name]:
        raise UserError(f"{name} is not split by {wanted!r}: --split_by is one of {', '.join(SPLIT_BY[name])}")
    return wanted or SPLIT_BY[name][0]


def _refuse_source(source: Source) -> None:
    if source.annotations or source.images or source.split_by:
        raise UserError("RefShapes is made, not read: leave out --annotations, --images and --split_by")


def _make_split(
    work: Path, dataset: ReferDataset, split: str, tokenizer: Tokenizer, fingerprint: str, skip: bool, workers: int
) -> dict:
    """What is written of a split: its numbers and problems. Its files are in `work`, or further on already."""
    marker = work / f"{split}.json"
    if marker.is_file():
        return json.loads(marker.read_text(encoding="utf-8"))
    scenes = scenes_of(dataset, split)
    parts = []
    with tqdm(total=len(scenes), desc=f"{split}: checking and drawing", unit=" images", disable=None) as progress:
        for part, count in convert(scenes, work, split, skip, workers):
            parts.append(part)
            progress.update(count)
    drawn = tqdm(_drawn(scenes, parts), total=len(scenes), desc=f"{split}: writing", unit=" images", disable=None)
    written = write_split(work, split, drawn, tokenizer, f"CoupAlign {fingerprint}")
    if not written.expressions:
        raise UserError(
            f"split {split} has nothing left to write: mend what is wrong with it first, --on_error stop says what"
        )
    with atomic_path(marker) as path:
        path.write_text(json.dumps(asdict(written)), encoding="utf-8")
    for part in parts:
        part.unlink()
    return asdict(written)


def _drawn(scenes: list[Scene], parts: list[Path]) -> Iterator[tuple[Scene, Pixels]]:
    left = iter(scenes)
    for part in parts:
        for pixels in read_pixels(part):
            yield next(left), pixels


def _finish(work: Path, output: Path, meta: dict, problems: list[Problem]) -> None:
    """Moves the files from `work` to `output`. From here to the new meta.json the directory is in between, which its
    absence says; killed in between, the next run moves what is left."""
    (output / META_FILE).unlink(missing_ok=True)
    names = [file.name for split in meta["splits"] for file in split_files(output, split)]
    for name in names:
        if (work / name).is_file():
            (work / name).replace(output / name)
    for old in [*output.glob("*.mindrecord"), *output.glob("*.mindrecord.db")]:
        if old.name not in names:
            old.unlink()
    with atomic_path(output / SKIPPED_FILE) as path:
        path.write_text("".join(f"{json.dumps(asdict(problem))}\n" for problem in problems), encoding="utf-8")
    sizes = {name: (output / name).stat().st_size for name in names}
    with atomic_path(output / META_FILE) as path:
        path.write_text(json.dumps({**meta, "files": sizes}, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work)


def _read_problems(output: Path) -> tuple[Problem, ...]:
    try:
        lines = (output / SKIPPED_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # a user may remove it
        return ()
    return tuple(Problem(**json.loads(line)) for line in lines)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Holds off other programs that would prepare data in the same directory."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(
            f"another prepare_data.py is at work in {directory}: wait for it, or choose another --output"
        ) from error
    finally:
        os.close(handle)


def _source_sha256(dataset: ReferDataset) -> str:
    """Of the annotation files' content, and of the images' and masks' names and sizes."""
    digest = hashlib.sha256()
    for file in dataset.files:
        digest.update(sha256(file).encode())
    for path in [*(image.path for image in dataset.images.values()), *dataset.mask_files()]:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
