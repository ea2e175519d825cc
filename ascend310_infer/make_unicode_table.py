"""Writes src/unicode_table.inc: the results of BERT's uncased normaliser and word splitter for every character.

They come from the package `tokenizers`, which training uses, so that both agree:

    python ascend310_infer/make_unicode_table.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

TARGET = Path(__file__).parent / "src/unicode_table.inc"
CHARACTERS = [*range(0xD800), *range(0xE000, 0x110000)]
SYLLABLES = range(0xAC00, 0xAC00 + 11172)  # Hangul, which unicode.cc decomposes by arithmetic


def table() -> str:
    """Returns the text of the file."""
    normalise = BertNormalizer(lowercase=True).normalize_str
    made = {c: normalise(chr(c)) for c in CHARACTERS}
    chinese = [c for c, text in made.items() if len(text) > 2 and text[0] == text[-1] == " "]
    made.update({c: made[c][1:-1] for c in chinese})
    changed = {c: text for c, text in made.items() if c not in SYLLABLES and text not in ("", " ", chr(c))}
    expanded = {c: text for c, text in changed.items() if len(text) > 1}
    lines = ["// Made by make_unicode_table.py."]
    lines += _ranges("kDropped", (c for c, text in made.items() if text == ""))
    lines += _ranges("kSpaces", (c for c, text in made.items() if text == " "))
    lines += _ranges("kChinese", chinese)
    lines += _ranges("kPunctuation", filter(_splitter(), CHARACTERS))
    lines += _ranges("kAlphanumeric", (c for c in CHARACTERS if chr(c).isalnum()))
    lines += _array("Change", "kChanged", _changes({c: ord(text) for c, text in changed.items() if c not in expanded}))
    lines += _array(
        "Expansion",
        "kExpanded",
        [f'{{0x{c:X}, U"' + "".join(f"\\U{ord(each):08X}" for each in text) + '"}' for c, text in expanded.items()],
    )
    return "\n".join(lines) + "\n"


def _splitter() -> Callable[[int], bool]:
    split = BertPreTokenizer().pre_tokenize_str
    return lambda c: len(split(f"a{chr(c)}a")) == 3


def _ranges(name: str, characters: Iterable[int]) -> list[str]:
    ranges = []
    for c in characters:
        if ranges and c == ranges[-1][1] + 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    return _array("Range", name, [f"{{0x{first:X}, 0x{last:X}}}" for first, last in ranges])


def _changes(targets: dict[int, int]) -> list[str]:
    """Returns runs of every or every second character with the same target, or with targets that rise as they do."""
    runs = []
    left = sorted(targets)
    while left:
        first = left[0]
        runs_here = [_run(targets, first, stride, slope) for stride in (1, 2) for slope in (0, 1)]
        length, stride, slope = max(runs_here, key=lambda run: run[0])
        last = first + (length - 1) * stride
        runs.append(f"{{0x{first:X}, 0x{last:X}, 0x{targets[first]:X}, {stride}, {slope}}}")
        left = [c for c in left if c > last]
    return runs


def _run(targets: dict[int, int], first: int, stride: int, slope: int) -> tuple[int, int, int]:
    length = 1
    while True:
        c = first + length * stride
        between = stride == 2 and c - 1 in targets
        if between or targets.get(c) != targets[first] + slope * (c - first):
            return length, stride, slope
        length += 1


def _array(kind: str, name: str, items: list[str]) -> list[str]:
    lines, line = [f"constexpr {kind} {name}[] = {{"], ""
    for item in items:
        if len(line) + len(item) > 116:
            lines.append(f"  {line.rstrip()}")
            line = ""
        line += f"{item}, "
    return [*lines, f"  {line.rstrip()}", "};"]


if __name__ == "__main__":
    TARGET.write_text(table(), encoding="ascii")
