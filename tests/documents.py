"""What README, README_CN and the pages beside them say: commands, links, headings, tables, numbers."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coupalign.files import REPOSITORY

README, README_CN = REPOSITORY / "README.md", REPOSITORY / "README_CN.md"
PAGES = [README, README_CN, *sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "benchmarks/README.md"]
_INLINE = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python|bash|msrun|pip|source|cp) \S")


@dataclass(frozen=True)
class Command:
    """A command as words, and where it stands."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}: {shlex.join(self.words)}"


def fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """What stands in backticks, line breaks made blanks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands(page: Path) -> list[Command]:
    """Of blocks of bash, and of the text."""
    found = []
    for block in fences(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                found.append(Command(page, tuple(words)))
    for span in spans(prose(page)):
        if _INLINE.match(span):
            found.append(Command(page, tuple(word for word in shlex.split(span) if word != "…")))
    return found


def slug(heading: str) -> str:
    """The anchor that GitHub and Gitee give a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def headings(page: Path) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    return [(len(marks), text) for marks, text in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


def links(page: Path) -> list[str]:
    return re.findall(r"\[[^]]*\]\(([^)\s]+)\)", prose(page))


def tables(page: Path) -> list[list[str]]:
    """Rows of each table, without the one that rules it."""
    found, rows = [], []
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(line)
        elif rows:
            found.append([row for row in rows if not re.fullmatch(r"[|:\- ]+", row)])
            rows = []
    return found


def numbers(text: str) -> list[str]:
    """All numbers of a text, as they are written; but for those within names."""
    return re.findall(r"(?<![\w.@])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)", text, re.ASCII)


@cache
def usage_of(script: str) -> str:
    """What a script says of itself."""
    run = subprocess.run(["bash", REPOSITORY / script, "--help"], capture_output=True, text=True, check=True)
    return run.stdout
