"""Hooks of mkdocs.yml: pages that are generated or come from outside docs/, so that each text exists once."""

import html
import json
import os
import re
from itertools import groupby
from pathlib import Path

from mkdocs.structure.files import File

from coupalign.config import config_keys

REPOSITORY = Path(__file__).resolve().parent.parent
# Pages made of files outside docs/, by the path of the file.
PAGES = {
    "README.md": "index.md",
    "README_CN.md": "README_CN.md",
    "benchmarks/README.md": "benchmarks.md",
    "assets/README.md": "assets.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "UPGRADING.md": "UPGRADING.md",
    "LICENSE": "LICENSE",
    "CITATION.cff": "CITATION.cff",
}


def on_files(files, config):
    """Adds the pages from outside docs/."""
    for source, page in PAGES.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relinked(text, source, page)))
    return files


def on_page_markdown(markdown, page, **_):
    """Fills in the tables of configuration.md, and leads links that leave docs/ to the pages above."""
    uri = page.file.src_uri
    if uri == "configuration.md":
        return markdown.replace("<!-- keys -->", _key_tables())
    return markdown if uri in PAGES.values() else _relinked(markdown, f"docs/{uri}", uri)


def _relinked(text: str, source: str, page: str) -> str:
    """`text` of the file `source`, with its links to files of the repository as links from `page`."""

    def replaced(match: re.Match) -> str:
        target, anchor = match[1], match[2] or ""
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        to = PAGES.get(path, path.removeprefix("docs/"))
        return f"]({os.path.relpath(to, os.path.dirname(page) or '.')}{anchor})"

    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", replaced, text)


def _key_tables() -> str:
    """A table of keys for each section of default_config.yaml."""
    lines = []
    for title, keys in groupby(config_keys().values(), key=lambda key: key.title):
        lines += [f"## {title}", "", "| key | default | values | |", "|---|---|---|---|"]
        for key in keys:
            default = list(key.default) if isinstance(key.default, tuple) else key.default
            text = f"{html.escape(key.help)}{' *Resumable.*' if key.may_change else ''}"
            lines.append(f"| `{key.name}` | `{json.dumps(default)}` | {key.expected} | {text} |")
        lines.append("")
    return "\n".join(lines)
