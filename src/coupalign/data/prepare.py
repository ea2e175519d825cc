"""Turns a data set on disk into MindRecord files and meta.json."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from coupalign.data.convert import convert, read_part, scenes_of
from coupalign.data.json_lines import read_json_lines
from coupalign.data.mindrecord import MOST_OBJECTS, OBJECT_SIDE, split_files, write_split
from coupalign.data.prepared import FORMAT, META_FILE, missing_files, read_meta
from coupalign.data.refer import read_refer
from coupalign.data.referents import Problem, ReferDataset
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import make_directory, write_text

SKIPPED_FILE = "skipped.jsonl"
SPLIT_BY = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
    "referit": ("berkeley",),
    "grefcoco": ("unc",),
}
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Source:
    """Where a data set is read from."""

    # Directory of refs(<split_by>).p (for gRefCOCO grefs(<split_by>).json) and instances.json, or a file of JSON Lines.
    annotations: Path | None = None
    images: Path | None = None  # directory of the images; None is that of the JSON Lines file
    split_by: str | None = None  # author of the splits; None is the data set's first
    skip: bool = False  # leave out what cannot be used, instead of stopping


@dataclass(frozen=True)
class Prepared:
    """Result of `prepare`."""

    counts: Mapping[str, Mapping]  # by split, see ``write_split``
    problems: Sequence[Problem]  # what was left out
    written: bool  # False if the MindRecord files were already complete

    def table(self) -> str:
        """Returns the counts, one line per split, and lines about what was left out or truncated."""
        kinds = ["images", "referents", "expressions"]
        kinds += [kind for kind in ("several", "none") if any(count.get(kind) for count in self.counts.values())]
        lines = [f"{'split':<8}" + "".join(f"{kind:>13}" for kind in kinds)]
        for split, count in self.counts.items():
            lines.append(f"{split:<8}" + "".join(f"{count.get(kind, 0):>13,}" for kind in kinds))
        total, words = Counter[str](), Counter[str]()
        for count in self.counts.values():
            total.update({name: count.get(name, 0) for name in ("truncated", "unknown")})
            words.update(count.get("unknown_words", {}))
        if total["truncated"]:
            lines.append(f"truncated: {total['truncated']:,} expressions are longer than max_tokens; their end is lost")
        if total["unknown"]:
            listed = ", ".join(f"{word} ({number:,})" for word, number in words.most_common(8))
            lines.append(f"unknown words: {total['unknown']:,} expressions, most often {listed}")
        if self.problems:
            kinds = [problem.kind for problem in self.problems]
            listed = ", ".join(f"{kinds.count(kind):,} x {kind}" for kind in dict.fromkeys(kinds))
            lines.append(
                f"left out: {listed}; with them {sum(p.referents for p in self.problems):,} referents and "
                f"{sum(p.expressions for p in self.problems):,} expressions"
            )
        return "\n".join(lines)


def prepare(
    dataset: ReferDataset, name: str, output: Path, tokenizer: Tokenizer, skip: bool = False, workers: int = 1
) -> Prepared:
    """Writes the MindRecord files of every split and, once all are complete, meta.json.

    If it is stopped at any moment and started again, it continues. Complete files that were made from the same contents
    with the same settings are kept. What was left out is listed in skipped.jsonl.

    `name` is the key ``dataset``. Raises: UserError if the files cannot be written or, unless `skip`, something cannot
    be used.
    """
    make_directory(output)
    files = [*dataset.files, *(image.path for image in dataset.images.values()), *dataset.mask_files()]
    sources = _digest(files, workers)
    settings = {
        "format": FORMAT,
        "dataset": name,
        "max_tokens": tokenizer.max_tokens,
        "vocabulary_sha256": tokenizer.vocabulary_sha256,
        "source_blake2b": sources,
        "on_error": "skip" if skip else "stop",
        "objects": [MOST_OBJECTS, OBJECT_SIDE],
    }
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    meta = read_meta(output)
    if meta.get("fingerprint") == fingerprint and not missing_files(output, meta):
        return Prepared(meta["splits"], _read_problems(output), written=False)
    with _alone_in(output):
        work = output / f"{_UNFINISHED}{fingerprint[:16]}"
        for other in output.glob(f"{_UNFINISHED}*"):
            if other != work:
                shutil.rmtree(other)
        try:
            make_directory(work)
            splits = {
                split: _make_split(work, dataset, split, tokenizer, fingerprint, skip, workers)
                for split in dataset.splits
            }
            if _digest(files, workers) != sources:
                shutil.rmtree(work)
                raise UserError("images, masks or annotations changed during the preparation: start it again")
            problems = [*dataset.problems, *(problem for _, found in splits.values() for problem in found)]
            counts = {split: counted for split, (counted, _) in splits.items()}
            _finish(work, output, {**settings, "fingerprint": fingerprint, "splits": counts}, problems)
        except OSError as error:
            raise UserError(
                f"{output} cannot be written ({error.strerror or error}): free some space or choose "
                "another --output; what is finished is kept"
            ) from error
    return Prepared(counts, problems, written=True)


def read_dataset(name: str, source: Source) -> ReferDataset:
    """Reads and checks the data set `name` from its annotation files. Raises: UserError."""
    if not source.annotations:
        raise UserError(
            f"the data set {name} is read from disk: give --annotations, the directory of refs(<split_by>).p and "
            "instances.json or a file of JSON Lines, and --images"
        )
    if is_json_lines(source.annotations):
        if source.split_by:
            raise UserError("a file of JSON Lines defines its own splits: leave out --split_by")
        return read_json_lines(source.annotations, source.images or source.annotations.parent, source.skip)
    if not source.images:
        raise UserError(f"the data set {name} is read from disk: give --images, the directory of its images")
    whose, generalised = split_by(name, source.split_by), name == "grefcoco"
    return read_refer(source.annotations, source.images, whose, source.skip, generalised)


def is_json_lines(annotations: Path | None) -> bool:
    """Whether annotations are read as JSON Lines: any file, or a missing one whose name says so."""
    return annotations is not None and (
        annotations.is_file() or (annotations.suffix.lower() in (".jsonl", ".json") and not annotations.is_dir())
    )


def split_by(name: str, wanted: str | None) -> str:
    """Returns the author of the splits of a REFER data set: `wanted`, or the data set's first. Raises: UserError."""
    if name not in SPLIT_BY:
        raise UserError(
            f"there is no data set {name!r} in the layout of the REFER tool: --dataset is one of "
            f"{', '.join(SPLIT_BY)}; for your own data, give a file of JSON Lines with --annotations"
        )
    if wanted is not None and wanted not in SPLIT_BY[name]:
        raise UserError(f"{name} has no splits by {wanted!r}: --split_by is one of {', '.join(SPLIT_BY[name])}")
    return wanted or SPLIT_BY[name][0]


def _digest(files: Iterable[Path], workers: int) -> str:
    """Hashes names and contents of files, in order (BLAKE2b, hexadecimal). Raises: UserError."""
    paths = list(dict.fromkeys(os.path.abspath(file) for file in files))
    digest = hashlib.blake2b(digest_size=32)
    with ThreadPoolExecutor(workers) as pool:
        hashes = pool.map(_content_digest, paths)
        for path, content in tqdm(zip(paths, hashes), "hashing the sources", len(paths), unit=" files", disable=None):
            digest.update(f"{os.path.basename(path)}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _content_digest(path: str) -> str:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise UserError(f"{path} can no longer be read ({error.strerror}): put it back") from error


def _make_split(
    work: Path, dataset: ReferDataset, split: str, tokenizer: Tokenizer, fingerprint: str, skip: bool, workers: int
) -> tuple[dict, list[Problem]]:
    """Writes a split into `work`, unless it is there already; returns its counts and problems (see `write_split`)."""
    marker = work / f"{split}.json"
    if marker.is_file():
        counts, problems = json.loads(marker.read_text(encoding="utf-8"))
        return counts, [Problem(**problem) for problem in problems]
    scenes, parts = scenes_of(dataset, split), []
    with tqdm(total=len(scenes), desc=f"{split}: checking and drawing", unit=" images", disable=None) as progress:
        for part in convert(scenes, work, split, skip, workers):
            parts.append(part)
            progress.update(len(part.scenes))
    drawn = map(read_part, tqdm(parts, desc=f"{split}: writing", unit=" parts", disable=None))
    largest = max(part.largest for part in parts)
    counts, problems = write_split(work, split, drawn, tokenizer, f"CoupAlign {fingerprint}", largest)
    if not counts["expressions"]:
        raise UserError(f"nothing of split {split} can be used: --on_error stop names the first problem")
    write_text(marker, json.dumps([counts, [asdict(problem) for problem in problems]]))
    for part in parts:
        part.path.unlink()
    return counts, problems


def _finish(work: Path, output: Path, meta: dict, problems: list[Problem]) -> None:
    """Moves the files from `work` to `output` and writes meta.json.

    Until meta.json is written the directory is incomplete, which its absence shows; if the process is killed in
    between, the next run moves the rest.
    """
    (output / META_FILE).unlink(missing_ok=True)
    names = [file.name for split in meta["splits"] for file in split_files(output, split)]
    for name in names:
        if (work / name).is_file():
            (work / name).replace(output / name)
    for old in [*output.glob("*.mindrecord"), *output.glob("*.mindrecord.db")]:
        if old.name not in names:
            old.unlink()
    write_text(output / SKIPPED_FILE, "".join(f"{json.dumps(asdict(problem))}\n" for problem in problems))
    sizes = {name: (output / name).stat().st_size for name in names}
    write_text(output / META_FILE, json.dumps({**meta, "files": sizes}, indent=2) + "\n")
    shutil.rmtree(work)


def _read_problems(output: Path) -> list[Problem]:
    try:
        lines = (output / SKIPPED_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # a user may remove it
        return []
    return [Problem(**json.loads(line)) for line in lines]


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Prevents other processes from preparing data in the same directory."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(
            f"another prepare_data.py is running in {directory}: wait for it, or choose another --output"
        ) from error
    finally:
        os.close(handle)
