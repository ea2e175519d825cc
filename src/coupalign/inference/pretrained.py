"""Trained models by name, by directory, or from an address that the user gives."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import IO, Any

from coupalign.errors import UserError
from coupalign.files import CHECKPOINTS, atomic_path, find_file, make_directory

# Directories in the repository, which installed packages contain as well.
MODELS = {"refshapes": "assets/refshapes"}
_SECONDS = 30  # without an answer


def find_model(source: str | os.PathLike) -> Path:
    """The checkpoint of a trained model.

    Args:
        source: directory with a checkpoint, the config.yaml of its training and, unless ``vocab_file`` leads to it, the
            vocabulary; or a name in ``MODELS``. A directory takes precedence. If it has several checkpoints,
            best.ckpt or best.safetensors is chosen.

    Raises: UserError if there is no such model, or its checkpoint is not clear.
    """
    directory = find_file(source)
    if not directory.is_dir() and str(source) in MODELS:
        directory = find_file(MODELS[str(source)])
    if not directory.is_dir():
        raise UserError(f"no directory or model {source}: pass a directory, or one of the names {', '.join(MODELS)}")
    found = sorted(path for path in directory.iterdir() if path.suffix in CHECKPOINTS)
    best = [path for path in found if path.stem == "best"] or found
    if len(best) != 1:
        names = f"several checkpoints ({', '.join(path.name for path in best)})" if best else "no checkpoint"
        raise UserError(f"directory {directory} has {names}: keep one, or pass the path of a file to Predictor")
    return best[0]


def download_model(url: str, sha256: str, directory: str | os.PathLike) -> Path:
    """Downloads a zip archive with the files of a model into a new directory, for ``Predictor.from_pretrained``.

    Nothing else in the package uses the network.

    Args:
        url: address, https only.
        sha256: SHA-256 of the archive in hexadecimal; an archive that differs is deleted unopened.
        directory: receives the archive's files without their directories. It must not exist, and appears when it is
            complete.

    Returns: `directory`.

    Raises: UserError if the archive cannot be downloaded, differs or is no zip, or the directory exists.
    """
    target = Path(directory).expanduser()
    if target.exists():
        raise UserError(f"{target} exists already: use it with Predictor.from_pretrained, or choose another directory")
    if not url.startswith("https://"):
        raise UserError(f"{url}: only addresses that start with https:// are downloaded")
    make_directory(target.parent)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as temporary:
        archive, unpacked = Path(temporary, "model.zip"), Path(temporary, "model")
        _download(url, sha256.lower(), archive)
        unpacked.mkdir()
        try:
            with zipfile.ZipFile(archive) as files:
                for entry in files.infolist():
                    if not entry.is_dir():
                        with files.open(entry) as content, open(unpacked / Path(entry.filename).name, "xb") as file:
                            shutil.copyfileobj(content, file)
        except (zipfile.BadZipFile, FileExistsError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{url} is not a zip archive of a model, or two files have one name ({error})") from error
        os.replace(unpacked, target)
    return target


def _download(url: str, sha256: str, path: Path) -> None:
    digest = hashlib.sha256()
    opener = urllib.request.build_opener(_OnlyHttps)
    try:
        with opener.open(url, timeout=_SECONDS) as answer, atomic_path(path) as temporary:
            with open(temporary, "wb") as file:
                while block := answer.read(1 << 20):
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != sha256:
                raise UserError(
                    f"{url} has the SHA-256 {digest.hexdigest()}, not {sha256}: check both; nothing was kept"
                )
    except (OSError, ValueError, http.client.HTTPException) as error:  # the last two also for invalid addresses
        raise UserError(f"{url} cannot be downloaded ({error}): check the address and the network") from error


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise UserError(f"{req.full_url} redirects to {newurl}, which is not https: use another address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
