"""Reads the documents' commands, tables and names, and parses commands with the programs' own parsers."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import coupalign.cli
from coupalign.config import config_keys
from coupalign.files import REPOSITORY

README, README_CN = REPOSITORY / "README.md", REPOSITORY / "README_CN.md"
PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "benchmarks/README.md",
]
FOREIGN = {"curl", "docker", "pip", "schemathesis", "source", "cd", "cp", "tensorboard", "pre-commit"}
_INLINE = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python|bash|msrun|coupalign) \S")


@dataclass(frozen=True)
class Command:
    """A command as words, and the page that contains it."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}: {shlex.join(self.words)}"


def fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """Texts in backticks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands(page: Path) -> list[Command]:
    """Commands in blocks of bash and in the text."""
    lines = "".join(fences(page, "bash")).replace("\\\n", " ").splitlines()
    lines += [span for span in spans(prose(page)) if _INLINE.match(span)]
    found = [tuple(word for word in shlex.split(line, comments=True) if word != "…") for line in lines]
    return [Command(page, words) for words in found if words]


def tables(page: Path) -> list[list[str]]:
    """Rows of each table, without its rule."""
    found = re.findall(r"(?:^\|.*\n)+", prose(page), re.MULTILINE)
    return [[row for row in table.splitlines() if not re.fullmatch(r"[|:\- ]+", row)] for table in found]


def numbers(text: str) -> list[str]:
    """All numbers of a text as they are written, except within names."""
    return re.findall(r"(?<![\w.@])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)", text, re.ASCII)


@cache
def usage_of(script: str) -> str:
    run = subprocess.run(["bash", REPOSITORY / script, "--help"], capture_output=True, text=True, check=True)
    return run.stdout


class _Parsed(BaseException):
    """Raised in place of a parser's return, so that the program does nothing."""


class Parser:
    """Parses commands without running them."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        load = coupalign.cli.load_config
        # Configurations of runs do not exist here.
        monkeypatch.setattr(
            coupalign.cli, "load_config", lambda paths, keys: load([path for path in paths or [] if exists(path)], keys)
        )

    def parse(self, command: Command) -> None:
        """Raises: UserError or AssertionError for a command that its program refuses, or whose files do not exist."""
        words = list(command.words)
        while re.match(r"\w+=", words[0]):
            words.pop(0)
        program, *arguments = words
        if program in FOREIGN or arguments[:1] == ["-c"] or arguments[:2] == ["-m", "pytest"] or "DEVICE" in arguments:
            return
        for word in arguments:
            ours = word.startswith(("assets/", "benchmarks/", "configs/")) and word != "configs/mine.yaml"
            assert exists(word) or not ours, word
        if program == "bash":
            self._script(*arguments)
        elif program == "msrun":
            first = next(i for i, word in enumerate(arguments) if word.endswith(".py"))
            self._program(arguments[first], arguments[first + 1 :])
        elif program == "coupalign":
            self._program(arguments[0].replace("-", "_"), arguments[1:])
        elif program.endswith("/coupalign"):
            source = (REPOSITORY / "ascend310_infer/src/options.cc").read_text(encoding="utf-8")
            assert all(f'"{word[2:]}"' in source for word in arguments if word.startswith("--")), command
        elif arguments[0] == "-m" or "/" in arguments[0]:
            file = f"{arguments[1].replace('.', '/')}.py" if arguments[0] == "-m" else arguments[0]
            self._source(file, arguments[1:])
        else:
            assert Path(program).name == "python", f"unknown program {program}"
            self._program(arguments[0], arguments[1:])

    def _program(self, script: str, arguments: list[str]) -> None:
        main = importlib.import_module(script.removesuffix(".py")).main
        module = sys.modules[main.__module__]
        for parser in ("parse_arguments", "parse_own_arguments"):
            real = getattr(coupalign.cli, parser)

            def parsed(*given, real=real, **options):
                if "base" in options:
                    options["base"] = lambda _: {}  # instead of reading an evaluation
                real(*given, **options)
                raise _Parsed

            if hasattr(module, parser):
                self.monkeypatch.setattr(module, parser, parsed)
        with pytest.raises(_Parsed):
            main.__wrapped__(list(arguments))

    def _source(self, file: str, arguments: list[str]) -> None:
        """A benchmark or a program of deploy/: their options are read from the source, since they import much."""
        source = (REPOSITORY / file).read_text(encoding="utf-8")
        if "predict_files.add_arguments(" in source:
            source += (REPOSITORY / "deploy/predict_files.py").read_text(encoding="utf-8")
        known = set(re.findall(r'(?:add_argument|option)\(\s*"(--\w+)', source))
        if "parse_arguments(" in source:
            known |= {"--config", *(f"--{key}" for key in config_keys())}
        if "CHECKPOINT," in source:
            known.add("--checkpoint")
        given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert given <= known, f"{file} has no {given - known}"

    def _script(self, script: str, *arguments: str) -> None:
        usage = usage_of(script)
        first_option = next((i for i, word in enumerate(arguments) if word.startswith("--")), len(arguments))
        positional, rest = list(arguments[:first_option]), list(arguments[first_option:])
        keys = [(option, value) for option, value in zip(rest[::2], rest[1::2]) if f"{option} " not in usage]
        if positional and positional[0] in ("CPU", "GPU", "Ascend"):
            needed = re.search(rf"{Path(script).name} ((?:[A-Z_]+ )*[A-Z_]+)", usage)[1].split()
            assert len(positional) == len(needed), needed
            keys.append(("--data_dir", positional[-1]))
        program = next((name for name in ("train", "eval", "study") if name in script), None)
        if program == "study":
            keys += [("--study", positional[0]), ("--output_dir", positional[2])]
        if program == "eval":
            keys.append(("--checkpoint", positional[-2]))
        if program:
            self._program(program, [word for pair in keys for word in pair])


def exists(name: str | Path) -> bool:
    return (REPOSITORY / name).exists()
