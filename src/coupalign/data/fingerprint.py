"""A fingerprint of the files from which a data set is made, by their contents."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from coupalign.errors import UserError
from coupalign.files import write_text

_RECENT = 2 * 10**9  # ns; a file may change again within one tick of the file system's clock


def files_digest(files: Iterable[Path], cache: Path, workers: int) -> str:
    """Hashes names and contents of files, in order (BLAKE2b, hexadecimal).

    Args:
        cache: JSON file with the hashes known so far. A file is read again if its size, its time of modification or of
            change of status, or its inode differ.
        workers: Number of threads.

    Raises:
        UserError: A file cannot be read.
    """
    paths = list(dict.fromkeys(os.path.abspath(file) for file in files))
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}

    def entry(path: str) -> list:
        try:
            status = os.stat(path)
            state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            before = known.get(path)
            return before if before and before[:-1] == state else [*state, _blake2b(path)]
        except OSError as error:
            raise UserError(f"{path} can no longer be read ({error.strerror}): put it back") from error

    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(pool.map(entry, paths), total=len(paths), desc="hashing the sources", unit=" files", disable=None)
        entries = dict(zip(paths, bar))
    digest = hashlib.blake2b(digest_size=32)
    for path, (*_, content) in entries.items():
        digest.update(f"{os.path.basename(path)}\0{content}\n".encode(errors="surrogateescape"))
    now = time.time_ns()
    settled = {path: entry for path, entry in entries.items() if now - max(entry[1:3]) > _RECENT}
    if settled != known:
        write_text(cache, json.dumps(settled))
    return digest.hexdigest()


def _blake2b(path: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
