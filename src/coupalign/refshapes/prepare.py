"""RefShapes from its settings to MindRecord files."""

from __future__ import annotations

from pathlib import Path

from coupalign.data.prepare import Prepared, prepare
from coupalign.data.refer import read_refer
from coupalign.data.referents import ReferDataset
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.refshapes.writer import RefShapesSettings, write_refshapes


def prepare_refshapes(output: Path, settings: RefShapesSettings, tokenizer: Tokenizer, workers: int = 1) -> Prepared:
    """Makes RefShapes in ``<output>/source`` and prepares it in `output`. Raises: UserError."""
    write_refshapes(output / "source", settings, workers)
    return prepare(read_refshapes(output), "refshapes", output, tokenizer, workers=workers)


def read_refshapes(output: Path, skip: bool = False) -> ReferDataset:
    """Reads the data set in ``<output>/source``; `skip` as in `read_refer`. Raises: UserError."""
    source = output / "source"
    if not source.exists():
        raise UserError(f"{output} holds no RefShapes data set: run prepare_data.py without --check to make it")
    return read_refer(source, source / "images", "refshapes", skip)
