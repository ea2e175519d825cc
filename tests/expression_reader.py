"""Reads RefShapes' expressions back: an English grammar of its own, so that words and meanings check each other.

Geometry is the plain one (middles of boxes, no margins), which every cautious reading must agree with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.refshapes_files import Item

_ADJECTIVES = {
    **dict.fromkeys(("small", "little", "tiny"), ("size", "small")),
    **dict.fromkeys(("large", "big"), ("size", "large")),
    **dict.fromkeys(("solid", "plain"), ("pattern", "solid")),
    **dict.fromkeys(("dotted", "spotted"), ("pattern", "dotted")),
    "striped": ("pattern", "striped"),
    **{word: ("colour", word) for word in ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")},
    "violet": ("colour", "purple"),
    "turquoise": ("colour", "cyan"),
}
_NOUNS = {
    **{word: word for word in ("circle", "square", "triangle", "diamond", "cross", "star", "ring", "heart")},
    "disc": "circle",
    "plus sign": "cross",
    "object": None,
    "shape": None,
    "thing": None,
}
_LOOKS = {
    **_ADJECTIVES,
    **{noun: ("shape", shape) for noun, shape in _NOUNS.items() if shape},
    "stripes": ("pattern", "striped"),
    "dots": ("pattern", "dotted"),
    "spots": ("pattern", "dotted"),
}
_PATTERN_AFTER = {
    **{"with stripes": "striped", "without a pattern": "solid"},
    **dict.fromkeys(("with dots", "with spots"), "dotted"),
}
_EXTREMES = {
    words: way
    for way, group in {
        "left": ("leftmost", "furthest to the left", "on the far left", "nearest the left edge"),
        "right": ("rightmost", "furthest to the right", "on the far right", "nearest the right edge"),
        "top": ("top", "topmost", "highest", "at the very top", "nearest the top edge", "higher than the others"),
        "bottom": ("bottom", "lowest", "at the very bottom", "nearest the bottom edge", "lower than the others"),
    }.items()
    for words in group
}
_RELATIONS = {
    words: way
    for way, group in {
        "left": ("left of", "to the left of"),
        "right": ("right of", "to the right of"),
        "top": ("above", "higher up than"),
        "bottom": ("below", "under", "beneath"),
    }.items()
    for words in group
}
_INVERSES = {"to its right": "left", "to its left": "right", "below it": "top", "above it": "bottom"}
_RANKS = {"second": 2, "third": 3, "fourth": 4}


def _any(words) -> str:
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_NP = f"(?:{_any(_ADJECTIVES)} )*{_any(_NOUNS)}(?:e?s)?(?: {_any(_PATTERN_AFTER)})?"
_ONE = f"(?:{_any(_EXTREMES)} )?(?:{_any(_RANKS)} )?{_NP}(?: {_any(_EXTREMES)})?"
_RANKED = (
    f"{_any(_RANKS)} from the \\w+ among the {_NP}|{_NP} that is {_any(_RANKS)} from the \\w+|"
    f"{_any(_RANKS)} {_NP} from the \\w+|{_ONE}"
)
_FORMS = {
    name: re.compile(pattern)
    for name, pattern in {
        "plain": f"(?P<np>{_NP})",
        "extreme": f"(?P<way>{_any(_EXTREMES)}) (?P<np>{_NP})|(?P<np2>{_NP}) (?P<way2>{_any(_EXTREMES)})",
        "ordinal": f"(?P<rank>{_any(_RANKS)}) (?P<np>{_NP}) from the (?P<way>\\w+)|"
        f"(?P<np2>{_NP}) that is (?P<rank2>{_any(_RANKS)}) from the (?P<way2>\\w+)|"
        f"(?P<rank3>{_any(_RANKS)}) from the (?P<way3>\\w+) among the (?P<np3>{_NP})",
        "relation": f"(?P<np>{_NP})(?: that is)? (?P<way>{_any(_RELATIONS)}) the (?P<anchor>{_RANKED})|"
        f"(?P<np2>{_NP}) that has the (?P<anchor2>{_RANKED}) (?P<inverse>{_any(_INVERSES)})",
        "closest": f"(?:(?P<rank>{_any(_RANKS)}) )?(?:closest|nearest) (?P<np>{_NP}) to the (?P<anchor>{_NP})|"
        f"(?P<np2>{_NP}) that is (?:(?P<rank2>{_any(_RANKS)}) )?(?:closest|nearest) to the (?P<anchor2>{_NP})",
        "ranked relation": f"(?:(?P<extreme>{_any(_EXTREMES)})|(?P<rank>{_any(_RANKS)}) from the (?P<from>\\w+)) of the "
        f"(?P<np>{_NP}) (?P<way>{_any(_RELATIONS)}) the (?P<anchor>{_NP})",
        "negation": f"(?P<np>{_NP}) (?:that is not|of any colour but|that is anything but|without|that has no)"
        f" (?:a )?(?P<no>{_any(_LOOKS)})|(?P<np2>{_NP}) that is neither (?:a )?(?P<no2>{_any(_LOOKS)}) nor "
        f"(?:a )?(?P<or>{_any(_LOOKS)})",
    }.items()
}

_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
_SEVERAL = re.compile(
    f"(?:all |(?:the )?(?:(?P<number>{_any(_NUMBERS)}) )?)(?P<np>{_NP})"
    f"(?: (?P<way>{_any(_RELATIONS)}) the (?P<anchor>{_RANKED})|"
    f" (?:of any colour but|without) (?P<no>{_any(_LOOKS)})|"
    f" neither (?P<no2>{_any(_LOOKS)}) nor (?P<or>{_any(_LOOKS)}))?"
)
# Words that say the same factor, in the same part of speech.
_GROUPS = [
    ("small", "little", "tiny", "large", "big"),
    ("solid", "plain", "striped", "dotted", "spotted"),
    ("with stripes", "with dots", "with spots", "without a pattern"),
    [word for word, (factor, _) in _ADJECTIVES.items() if factor == "colour"],
    [noun for noun, shape in _NOUNS.items() if shape],
    ["crosses" if noun == "cross" else f"{noun}s" for noun, shape in _NOUNS.items() if shape],
]


def read(expression: str, items: Sequence[Item]) -> list[tuple[str, list[Item]]]:
    """All readings of an expression: (form, items it names)."""
    text = expression.removeprefix("the ")
    readings = []
    for form, pattern in _FORMS.items():
        match = pattern.fullmatch(text)
        if match:
            parts = {name.rstrip("23"): value for name, value in match.groupdict().items() if value}
            try:
                named = _NAMED[form](parts, list(items))
            except Nothing:
                named = []
            readings.append((form, named))
    return readings


def read_several(expression: str, items: Sequence[Item]) -> list[tuple[str, list[Item]]]:
    """All readings of an expression in the plural: (form, items it names). A number that it says must be theirs."""
    match = _SEVERAL.fullmatch(expression)
    parts = {name.rstrip("2"): value for name, value in match.groupdict().items() if value} if match else {}
    if not parts or not re.search("crosses|(?!cross)(?:" + "|".join(f"{noun}s" for noun in _NOUNS) + ")", parts["np"]):
        return []
    form = next((form for part, form in {"way": "relation", "no": "negation"}.items() if part in parts), "plain")
    try:
        named = _NAMED[form](parts, list(items))
    except Nothing:
        named = []
    if "number" in parts and named:
        assert len(named) == _NUMBERS[parts["number"]], f"{expression!r} names {len(named)}"
    return [(form, named)]


def with_one_look_changed(expression: str) -> list[str]:
    """The expression with one of its words about looks replaced by each other one of its kind."""
    changed = []
    for group in _GROUPS:
        for phrase in group:
            for match in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", expression):
                start, end = match.span()
                changed += [expression[:start] + other + expression[end:] for other in group if other != phrase]
    return changed


class Nothing(Exception):
    """An anchor that is not there."""


def _described(phrase: str, items: list[Item]) -> list[Item]:
    """Items that a noun phrase fits."""
    looks = {}
    for after, pattern in _PATTERN_AFTER.items():
        if phrase.endswith(" " + after):
            phrase, looks["pattern"] = phrase[: -len(after) - 1], pattern
    for noun, shape in _NOUNS.items():
        found = re.fullmatch(f"(.*?){noun}(?:e?s)?", phrase)
        if found:
            if shape:
                looks["shape"] = shape
            for word in found[1].split():
                factor, value = _ADJECTIVES[word]
                assert factor not in looks, f"{factor} twice in {phrase!r}"
                looks[factor] = value
            return [item for item in items if all(item.looks[factor] == value for factor, value in looks.items())]
    raise AssertionError(f"no noun in {phrase!r}")


def _position(item: Item, way: str) -> float:
    """Grows towards `way`."""
    x, y = item.centre
    return {"left": -x, "right": x, "top": -y, "bottom": y}[way]


def _nth(items: list[Item], way: str, rank: int) -> list[Item]:
    return sorted(items, key=lambda item: -_position(item, way))[rank - 1 : rank]


def _one(readings: list[tuple[str, list[Item]]]) -> Item:
    ((_, named),) = readings
    if not named:
        raise Nothing
    (item,) = named
    return item


def _beyond(parts: dict, items: list[Item]) -> list[Item]:
    anchor = _one(read(parts["anchor"], items))
    way = _RELATIONS[parts["way"]] if "way" in parts else _INVERSES[parts["inverse"]]
    return [item for item in _described(parts["np"], items) if _position(item, way) > _position(anchor, way)]


def _closest(parts: dict, items: list[Item]) -> list[Item]:
    anchor = _one(read(parts["anchor"], items))
    others = [item for item in _described(parts["np"], items) if item is not anchor]
    others.sort(key=lambda item: sum((a - b) ** 2 for a, b in zip(item.centre, anchor.centre, strict=True)))
    rank = _RANKS.get(parts.get("rank"), 1)
    return others[rank - 1 : rank]


def _ranked_relation(parts: dict, items: list[Item]) -> list[Item]:
    beyond = _beyond(parts, items)
    if "extreme" in parts:
        assert len(beyond) != 1, "a rank among one"
        return _nth(beyond, _EXTREMES[parts["extreme"]], 1)
    return _nth(beyond, parts["from"], _RANKS[parts["rank"]])


def _negated(parts: dict, items: list[Item]) -> list[Item]:
    for part in ("no", "or"):
        if part in parts:
            factor, value = _LOOKS[parts[part]]
            left = [item for item in items if item.looks[factor] != value]
            before, after = (len(_described(parts["np"], each)) for each in (items, left))
            assert after < before or not before, "excludes nothing"
            items = left
    return _described(parts["np"], items)


_NAMED = {
    "plain": lambda parts, items: _described(parts["np"], items),
    "extreme": lambda parts, items: _nth(_described(parts["np"], items), _EXTREMES[parts["way"]], 1),
    "ordinal": lambda parts, items: _nth(_described(parts["np"], items), parts["way"], _RANKS[parts["rank"]]),
    "relation": _beyond,
    "closest": _closest,
    "ranked relation": _ranked_relation,
    "negation": _negated,
}
