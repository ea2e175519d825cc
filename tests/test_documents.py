"""README, README_CN and docs/: their commands, names and figures. Links are checked by `mkdocs build --strict`."""

from __future__ import annotations

import ast
import json
import re
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest

import prepare_data
from coupalign.config import config_keys
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from tests.documents import (
    PAGES,
    README,
    README_CN,
    Parser,
    commands,
    fences,
    numbers,
    prose,
    spans,
    tables,
    usage_of,
)

SCRIPTS = [
    path.relative_to(REPOSITORY) for path in (REPOSITORY / "scripts").glob("*.sh") if "Usage:" in path.read_text()
]
EVALUATIONS = {split: REPOSITORY / f"assets/refshapes/eval/{split}.json" for split in ("val", "testA", "testB")}
MINDSPORE_NAMES = ("converter_lite", "dataset_sink_mode", "op_precision", "precision_mode", "preferred_optimal")
MINDSPORE_NAMES += ("use_batch_statistics",)
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_programs_accept_every_command_and_its_files_exist(monkeypatch):
    parser, found = Parser(monkeypatch), list(chain.from_iterable(map(commands, PAGES)))
    for command in found:
        try:
            parser.parse(command)
        except (UserError, AssertionError) as error:
            pytest.fail(f"{command}\n{error}")
    assert len(found) > 60


def test_own_data_as_documented(tmp_path, monkeypatch, capsys):
    """The example file of docs/data.md and the command below it."""
    monkeypatch.chdir(tmp_path)
    page = REPOSITORY / "docs/data.md"
    Path("mine.jsonl").write_text(fences(page, "jsonl")[0])
    Path("masks").mkdir()
    cv2.imwrite("desk.jpg", np.full((40, 60, 3), 128, np.uint8))
    cv2.imwrite("masks/cup.png", np.pad(np.full((10, 20), 255, np.uint8), ((5, 25), (10, 30))))
    words = next(each.words for each in commands(page) if each.words[1:4] == ("prepare_data.py", "--dataset", "mine"))
    assert prepare_data.main(list(words[2:])) == 0
    assert re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+)", capsys.readouterr().out, re.MULTILINE) == [
        ("train", "1", "4", "5"),
        ("val", "1", "1", "1"),
    ]


@EACH_PAGE
def test_python_imports_exist(page):
    for block in fences(page, "python"):
        for line in ast.parse(block).body:
            if isinstance(line, ast.ImportFrom):
                module = __import__(line.module, fromlist=[alias.name for alias in line.names])
                assert all(hasattr(module, alias.name) for alias in line.names)


@EACH_PAGE
def test_options_keys_and_files_exist(page):
    python = [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("src/**/*.py")]
    programs = [
        *python,
        *chain.from_iterable(REPOSITORY.glob(f"{each}/*.py") for each in ("benchmarks", "deploy", "scripts")),
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in programs)
    options = {"--config", "--help", "--key", *(f"--{key}" for key in config_keys())}
    options |= set(re.findall(r'"(--\w+)[ "]', text))
    options |= set(re.findall(r"--[\w-]+", "".join(map(usage_of, map(str, SCRIPTS)))))
    for span in spans(prose(page)):
        if re.match(r"--\w", span):
            assert span.split()[0].split("=")[0] in options, span
        elif re.fullmatch(
            r"(?:src|tests|docs|scripts|benchmarks|configs|deploy|ascend310_infer|assets)/[\w./*-]*", span
        ):
            assert list(REPOSITORY.glob(span.rstrip("/"))), span
        elif re.fullmatch(r"[\w/]+\.py", span):
            assert any(f"/{file}".endswith(f"/{span}") for file in programs), span
        elif re.fullmatch(r"[a-z]+(?:_[a-z]+)+", span) and span not in MINDSPORE_NAMES:
            assert re.search(rf"\b{span}\b", text + (REPOSITORY / "default_config.yaml").read_text()), span


def test_figures_of_the_shipped_model_are_those_of_its_evaluations():
    """The table of models in README, and the table by family in docs/evaluation.md."""
    found = {split: json.loads(path.read_text()) for split, path in EVALUATIONS.items()}
    (row,) = [row for row in chain.from_iterable(tables(README)) if "assets/refshapes/model.safetensors" in row]
    assert [cell.strip() for cell in row.split("|")[4:7]] == [_scores(each["metrics"]) for each in found.values()]
    assert _scores(found["val"]["baselines"]["all of the class"]) in README.read_text(encoding="utf-8")
    families = {
        name.replace("_", " with "): [metrics, *found["val"]["family_baselines"][name].values()]
        for name, metrics in found["val"]["families"].items()
    }
    families |= {f"all, {split}": [each["metrics"], *each["baselines"].values()] for split, each in found.items()}
    expected = [f"| {' | '.join([name, *map(_scores, cells)])} |" for name, cells in families.items()]
    assert expected in [rows[1:] for rows in tables(REPOSITORY / "docs/evaluation.md")]


def test_the_readmes_agree():
    """Commands, code, links, names in backticks, and the numbers in each table row and section."""
    ours, theirs = README.read_text(encoding="utf-8"), README_CN.read_text(encoding="utf-8")
    assert [command.words for command in commands(README)] == [command.words for command in commands(README_CN)]
    for pattern in (r"\]\((?!README)([^)]+)\)", r"^#+ ", r"`([^`\n]+)`"):
        assert sorted(re.findall(pattern, ours, re.M)) == sorted(re.findall(pattern, theirs, re.M))
    assert [re.sub("#.*", "", block) for block in fences(README, "python")] == [
        re.sub("#.*", "", block) for block in fences(README_CN, "python")
    ]
    for row, other in zip(chain(*tables(README)), chain(*tables(README_CN)), strict=True):
        assert numbers(row) == numbers(other)
    for section, other in zip(re.split(r"^#.*", ours, flags=re.M), re.split(r"^#.*", theirs, flags=re.M), strict=True):
        assert sorted(numbers(section)) == sorted(numbers(other))


def _scores(metrics: dict) -> str:
    return f"{100 * metrics['oIoU']:.2f} / {100 * metrics['mIoU']:.2f}"
