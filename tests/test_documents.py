"""README, README_CN and docs/: commands, links and names lead somewhere, and both languages say the same."""

from __future__ import annotations

import ast
import re
from functools import cache
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest

import prepare_data
import visualise
from coupalign.config import config_keys
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from tests.documents import (
    PAGES,
    README,
    README_CN,
    commands,
    fences,
    headings,
    links,
    numbers,
    prose,
    slug,
    spans,
    tables,
    usage_of,
)
from tests.stage import Stage
from tests.test_monitor import curves

# Why a command of the documents is parsed and not run; others are run, by the tests that follow or named here.
NOT_RUN_HERE = {
    r"refcoco|refcocog|referit|start.*\.ckpt": "needs RefCOCO, G-Ref or ReferIt, or the published Swin and BERT",
    r"run_distribute_train|msrun": "needs several devices; two ranks on the CPU are run by tests/test_distributed.py",
    r"quickstart": "takes ten minutes",
    r"40000": "takes minutes to hours",
    r"run_tests": "is this",
    r"tensorboard --logdir": "tensorboard is not among the requirements",
    r"set_up_lite|\.lite/|coupalign --mindir|build\.sh|run_infer_310": "needs MindSpore Lite; with one, tests/test_lite.py builds and runs it",
    r"-m benchmarks": "takes minutes",
    r"source |pip install|cp --sparse|mindspore\.run_check": "not ours",
}
# By program, the file of the tests that runs it, and how.
RUN_BY = {
    "train.py": ("tiny_training.py", "train.main(argv)"),
    "eval.py": ("test_evaluate.py", "import eval as program"),
    "predict.py": ("test_predict.py", "import predict as program"),
    "export.py": ("test_export.py", "import export as program"),
    "data_card.py": ("test_data_card.py", "data_card.main("),
    "prepare_data.py": ("test_data_card.py", "prepare_data.main("),
    "pretrain.py": ("test_pretraining.py", "pretrain.main("),
    "demo.py": ("test_demo_parts.py", "demo.main(arguments)"),
    "visualise.py gallery": ("test_gallery.py", 'visualise.main(["gallery"'),
    "visualise.py alignment": ("test_alignment.py", 'visualise.main(["alignment"'),
    "visualise.py failures": ("test_failures.py", 'visualise.main(["failures"'),
    "visualise.py curves": ("test_documents.py", "visualise.main("),
    "study.py": ("test_study_report.py", 'program.main(["--study"'),
    "run_study.sh": ("test_study.py", "scripts/run_study.sh"),
    "run_standalone_train.sh": ("test_scripts.py", "scripts/run_standalone_train.sh"),
}
PROGRAMS = sorted(file.stem for file in REPOSITORY.glob("*.py") if "parse_arguments" in file.read_text())
SCRIPTS = [
    "scripts/quickstart.sh",
    "scripts/run_tests.sh",
    "scripts/run_standalone_train.sh",
    "scripts/run_distribute_train.sh",
    "scripts/run_study.sh",
    "scripts/run_infer_310.sh",
    "scripts/set_up_lite.sh",
    "ascend310_infer/build.sh",
]
PAIR = pytest.mark.parametrize("page", [README, README_CN], ids=lambda page: page.name)
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def all_commands():
    return list(chain.from_iterable(map(commands, PAGES)))


@cache
def sources() -> str:
    """All that is written in programs, in one text."""
    kinds = ("*.py", "*.yaml", "src/**/*.py", "benchmarks/*.py")
    return "\n".join(file.read_text(encoding="utf-8") for kind in kinds for file in REPOSITORY.glob(kind))


def _made_first(command) -> tuple[int, int]:
    """What makes comes before what takes: data, trainings, those that take another's configuration, then the rest."""
    text = str(command)
    order = ("prepare_data", "quickstart", "study.py", "train", "eval.py")
    kind = next((i for i, name in enumerate(order) if name in text), 9)
    return kind, text.count("--config runs/")


def test_every_command_is_understood_and_finds_what_it_takes(stage):
    missing = {}
    found = sorted(all_commands(), key=_made_first)
    for _ in range(2):  # what a command takes may be made by one that comes later
        for command in found:
            try:
                missing[str(command)] = stage.play(command)
            except (UserError, AssertionError) as error:
                pytest.fail(f"{command}\n{error}")
    assert not {command: names for command, names in missing.items() if names}
    assert len(found) > 60


@pytest.mark.parametrize(
    "wrong",
    [
        "python train.py --lerning_rate 1",
        "python eval.py --checkpoint runs/tiny/best.ckpt --threshold 2",
        "python prepare_data.py --dataset refcoco --split_by umd --annotations data/refer/refcoco --images data",
        "python visualise.py histogram x.json",
        "python -m benchmarks.two_ranks --rank 3",
        "bash scripts/quickstart.sh --anew",
        "bash scripts/run_standalone_train.sh TPU default_config.yaml data/refcoco",
        "bash scripts/run_distribute_train.sh CPU 2 default_config.yaml data/refcoco --node 2",
    ],
)
def test_a_command_that_is_wrong_is_found(stage, tmp_path, wrong):
    page = REPOSITORY / "README.md"
    (tmp_path / "page.md").write_text(f"```bash\n{wrong}\n```\n")
    (command,) = commands(tmp_path / "page.md")
    with pytest.raises((UserError, AssertionError)):
        stage.play(type(command)(page, command.words))


def test_what_no_command_makes_is_found(stage, tmp_path):
    (tmp_path / "page.md").write_text(
        "```bash\npython predict.py --checkpoint runs/none/best.ckpt --image b.png \\\n"
        '    --expression "a # b"  # c\n```\n'
    )
    (command,) = commands(tmp_path / "page.md")
    assert command.words[-2:] == ("--expression", "a # b")
    assert stage.play(command) == ["runs/none/best.ckpt", "b.png"]


def test_every_command_is_run_somewhere_or_has_a_reason():
    for command in all_commands():
        if any(re.search(pattern, " ".join(command.words)) for pattern in NOT_RUN_HERE):
            continue
        ran = [name for name in RUN_BY if name in " ".join(command.words)]
        assert ran, f"{command} is run by no test, and NOT_RUN_HERE gives no reason"
    for name, (test, how) in RUN_BY.items():
        assert how in (REPOSITORY / "tests" / test).read_text(encoding="utf-8"), f"{test} does not run {name}"
    for pattern in NOT_RUN_HERE:
        assert any(re.search(pattern, " ".join(command.words)) for command in all_commands()), f"{pattern} is of no use"


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_explain_themselves(name, capsys):
    module = __import__(name)
    try:
        assert module.main(["--help"]) == 0
    except SystemExit as stopped:
        assert stopped.code == 0
    assert len(capsys.readouterr().out) > 200


def test_own_data_as_the_page_says(tmp_path, monkeypatch, capsys):
    """The example's file, and the command below it."""
    monkeypatch.chdir(tmp_path)
    page = REPOSITORY / "docs/data.md"
    Path("mine.jsonl").write_text(fences(page, "jsonl")[0])
    Path("masks").mkdir()
    cv2.imwrite("desk.jpg", np.full((40, 60, 3), 128, np.uint8))
    cv2.imwrite("masks/cup.png", np.pad(np.full((10, 20), 255, np.uint8), ((5, 25), (10, 30))))
    (words,) = [each.words for each in commands(page) if each.words[1:4] == ("prepare_data.py", "--dataset", "mine")]
    assert prepare_data.main(list(words[2:])) == 0
    assert re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+)$", capsys.readouterr().out, re.MULTILINE) == [
        ("train", "1", "2", "3"),
        ("val", "1", "1", "1"),
    ]


def test_curves_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    curves(Path("runs/tiny"))
    (words,) = [each.words for each in commands(README) if each.words[1:3] == ("visualise.py", "curves")]
    assert visualise.main(list(words[2:])) == 0
    assert cv2.imread("curves.png").shape[0] > 500


@PAIR
def test_python_of_the_page_is_right(page):
    """Names that are imported are there, and keywords are those of the call."""
    for block in fences(page, "python"):
        for line in ast.parse(block).body:
            if isinstance(line, ast.ImportFrom):
                module = __import__(line.module, fromlist=[alias.name for alias in line.names])
                assert all(hasattr(module, alias.name) for alias in line.names)
    from coupalign.inference import Predictor
    from coupalign.inference.predictor import Prediction

    shown = set(re.findall(r"prediction\.(\w+)", "".join(fences(page, "python"))))
    assert shown <= set(Prediction.__dataclass_fields__) and len(shown) == 3
    assert "proposals" in Predictor.predict.__code__.co_varnames


@EACH
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in {slug(text) for _, text in headings(target)}, link


@EACH
def test_names_of_options_keys_and_files_exist(page):
    options = {f"--{key}" for key in config_keys()} | set(re.findall(r"--\w+", "".join(map(usage_of, SCRIPTS))))
    for source in [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("benchmarks/*.py"), *REPOSITORY.glob("deploy/*.py")]:
        options |= set(re.findall(r'add_argument\("(--\w+)"', source.read_text(encoding="utf-8")))
    options |= {"--config", "--help", "--key"}
    for span in spans(prose(page)):
        if re.match(r"--\w", span):
            assert span.split()[0].split("=")[0] in options, span
        elif re.fullmatch(r"(?:src|tests|docs|scripts|benchmarks|configs|deploy|ascend310_infer)/[\w./*-]*", span):
            assert list(REPOSITORY.glob(span.rstrip("/"))), span
        elif re.fullmatch(r"[a-z]+(?:_[a-z]+)+", span) and span != "dataset_sink_mode":  # that one is MindSpore's
            assert re.search(rf"\b{span}\b", sources()), span


def test_messages_are_those_of_the_programs():
    """Every message of the page on trouble is in a source, piece by piece."""
    known = []
    for source in chain(REPOSITORY.glob("*.py"), REPOSITORY.glob("src/**/*.py"), REPOSITORY.glob("deploy/*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                known.append("".join(each.value if isinstance(each, ast.Constant) else "…" for each in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                known.append(node.value)
    for pattern in ("scripts/*.sh", "ascend310_infer/*.sh", "ascend310_infer/src/*.cc"):
        known += [re.sub(r'"\s*"', "", source.read_text(encoding="utf-8")) for source in REPOSITORY.glob(pattern)]
    said = "\n".join(known)
    messages = [span for span in spans(prose(REPOSITORY / "docs/troubleshooting.md")) if span.startswith("error: ")]
    assert len(messages) > 30
    for message in messages:
        for piece in re.split("…|: ", message.removeprefix("error: ")):
            assert piece.strip() in said, f"{message!r}: no source says {piece.strip()!r}"


def test_the_readmes_have_the_same_commands():
    ours, theirs = ([command.words for command in commands(page)] for page in (README, README_CN))
    assert ours == theirs
    for language in ("python", "jsonl"):
        assert [_without_comments(block) for block in fences(README, language)] == [
            _without_comments(block) for block in fences(README_CN, language)
        ]


def test_the_readmes_have_the_same_figures():
    """In every table row, and in the text of every section."""
    ours, theirs = tables(README), tables(README_CN)
    assert [len(table) for table in ours] == [len(table) for table in theirs]
    for row, other in zip(chain.from_iterable(ours), chain.from_iterable(theirs)):
        assert numbers(row) == numbers(other), f"{row}\n{other}"
    for (heading, text), (other_heading, other) in zip(_sections(README), _sections(README_CN), strict=True):
        assert sorted(numbers(text)) == sorted(numbers(other)), f"{heading} | {other_heading}"


def test_the_readmes_have_the_same_structure():
    assert [level for level, _ in headings(README)] == [level for level, _ in headings(README_CN)]
    assert [_target(link) for link in links(README)] == [_target(link) for link in links(README_CN)]
    ours, theirs = ({span for span in spans(prose(page)) if span.isascii()} for page in (README, README_CN))
    assert ours == theirs


def _sections(page: Path) -> list[tuple[str, str]]:
    pieces = re.split(r"^(#+ .+)$", prose(page), flags=re.MULTILINE)
    return [("", pieces[0]), *zip(pieces[1::2], pieces[2::2])]


def _target(link: str) -> str:
    """Where a link leads, without the place on a README, whose headings are translated."""
    path, _, anchor = link.partition("#")
    if path in ("", "README.md", "README_CN.md"):
        return "readme"
    return link


def _without_comments(block: str) -> list[str]:
    return [line.split("#")[0].rstrip() for line in block.splitlines()]
