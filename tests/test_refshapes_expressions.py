"""What RefShapes' expressions name, read back by a grammar of the tests' own."""

from __future__ import annotations

from collections import Counter

import pytest

from coupalign.data.tokenizer import Tokenizer
from coupalign.refshapes.dice import Dice
from coupalign.refshapes.meaning import Closest, Described, Ranked, Related, Unclear, refers_to
from coupalign.refshapes.scene import HELD_OUT, Kind, Thing
from coupalign.refshapes.wording import word
from tests.expression_reader import read, read_several, with_one_look_changed

_FORMS = {
    "attribute": {"plain"},
    "extreme": {"extreme"},
    "ordinal": {"ordinal"},
    "relation": {"relation", "closest"},
    "relation_ordinal": {"relation", "closest", "ranked relation"},
    "negation": {"negation"},
}


def test_every_expression_names_its_referent_and_nothing_else(refshapes):
    for ref in refshapes.refs:
        items = refshapes.items(ref["image_id"])
        for sentence in ref["sentences"]:
            where = f"{sentence['sent']!r} ({sentence['family']}, {ref['file_name']})"
            readings = read(sentence["sent"], items)
            assert len(readings) == 1, f"{where}: read as {[form for form, _ in readings]}"
            form, named = readings[0]
            assert form in _FORMS[sentence["family"]], f"{where}: read as {form}"
            assert [item.ann_id for item in named] == [ref["ann_id"]], where


def _named(sentence: dict, items: list) -> tuple[str, list]:
    """Form and items of the one reading of an expression, in the singular or, if it has none, in the plural."""
    readings = read(sentence["sent"], items) or read_several(sentence["sent"], items)
    assert len(readings) == 1, f"{sentence['sent']!r}: read as {[form for form, _ in readings]}"
    return readings[0]


def _sentences(refs, family):
    return [(ref, said) for ref in refs for said in ref["sentences"] if said["family"] == family]


def test_several_names_exactly_its_objects_which_are_two_or_more(generalised):
    forms = Counter()
    for ref, said in _sentences(generalised.refs, "several"):
        readings = read_several(said["sent"], generalised.items(ref["image_id"]))
        ((form, named),) = readings
        where = f"{said['sent']!r} ({ref['file_name']})"
        assert [item.ann_id for item in named] == ref["ann_id"], where
        assert 2 <= len(named) < len(generalised.items(ref["image_id"])), where
        assert not ref["no_target"]
        shapes = {generalised.categories[category] for category in ref["category_id"]}
        assert shapes == {item.looks["shape"] for item in named}
        forms[form] += 1
    assert all(forms[form] > 0.1 * forms.total() for form in ("plain", "relation", "negation")), forms


def test_none_names_no_object_but_would_with_one_look_changed(generalised):
    forms = Counter()
    for ref, said in _sentences(generalised.refs, "none"):
        items = generalised.items(ref["image_id"])
        form, named = _named(said, items)
        assert named == [], f"{said['sent']!r} ({ref['file_name']})"
        assert ref["ann_id"] == [-1] and ref["no_target"] and len(ref["category_id"]) == 1
        assert any(_names_something(text, items) for text in with_one_look_changed(said["sent"])), said["sent"]
        forms[form] += 1
    assert {"plain", "relation", "negation", "ordinal", "extreme"} <= set(forms), forms


def _names_something(text: str, items: list) -> bool:
    try:
        return any(named for _, named in read(text, items) + read_several(text, items))
    except (AssertionError, ValueError):  # an anchor of several objects, another number, a rank among one
        return False


def test_generalised_shares_are_those_of_grefcoco_and_the_rest_is_as_without(generalised, refshapes):
    for split, count in (("train", 400), ("val", 40), ("testA", 40), ("testB", 40)):
        refs = [ref for ref in generalised.refs if ref["split"] == split]
        families = Counter(said["family"] for ref in refs for said in ref["sentences"])
        assert families.total() == count
        assert families["several"] == round(count * 80_022 / 278_232)
        assert families["none"] == round(count * 32_202 / 278_232)
        plain = [text for ref in refs if isinstance(ref["ann_id"], int) for text in _texts(ref)]
        assert plain == [text for ref in refshapes.refs if ref["split"] == split for text in _texts(ref)][: len(plain)]


def _texts(ref: dict) -> list[str]:
    return [said["sent"] for said in ref["sentences"]]


def test_pairs_that_training_never_shows_are_never_named_there(generalised):
    for ref in generalised.refs:
        if ref["split"] != "testA":
            for text in _texts(ref):
                assert not any(f"{colour} {shape}" in text for colour, shape in HELD_OUT), text


def test_the_class_alone_never_tells_and_a_near_twin_is_there(refshapes):
    for ref in refshapes.refs:
        items = refshapes.items(ref["image_id"])
        target = next(item for item in items if item.ann_id == ref["ann_id"])
        others = [item for item in items if item is not target]
        assert any(item.looks["shape"] == target.looks["shape"] for item in others)
        assert any(sum(item.looks[factor] != value for factor, value in target.looks.items()) == 1 for item in others)


def test_families_are_balanced_and_differ_within_a_referent(refshapes):
    count = Counter(sentence["family"] for ref in refshapes.refs for sentence in ref["sentences"])
    assert set(count) == set(_FORMS)
    shares = {family: number / count.total() for family, number in count.items()}
    assert 0.2 < shares.pop("attribute") < 0.32
    assert all(0.09 < share < 0.22 for share in shares.values()), shares
    for ref in refshapes.refs:
        families = [sentence["family"] for sentence in ref["sentences"]]
        assert 1 <= len(families) == len(set(families)) <= 4


def test_its_own_vocabulary_takes_them_apart_as_berts_does(refshapes):
    own, bert = (Tokenizer(f"assets/{name}-vocab.txt", 24) for name in ("refshapes", "bert-base-uncased"))
    for ref in refshapes.refs:
        for sentence in ref["sentences"]:
            assert own.tokens(sentence["sent"]) == bert.tokens(sentence["sent"])


def _thing(x: int, y: int, shape: str = "circle", colour: str = "red", size: int = 10) -> Thing:
    return Thing(Kind(shape, colour, "small", "solid"), (x - size // 2, y - size // 2, size, size))


_CIRCLES, _SQUARE = Described((("shape", "circle"),)), Described((("shape", "square"),))


def test_ranks_count_from_their_side_and_want_a_margin():
    things = [_thing(60, 10), _thing(20, 50), _thing(40, 90), _thing(90, 50, "square")]
    for direction, order in {"left": (1, 2, 0), "right": (0, 2, 1), "top": (0, 1, 2), "bottom": (2, 1, 0)}.items():
        assert [Ranked(_CIRCLES, direction, rank).named(things)[0] for rank in (1, 2, 3)] == list(order)
    assert Ranked(_CIRCLES, "left", 4).named(things) == []
    with pytest.raises(Unclear):
        Ranked(_CIRCLES, "left", 1).named([_thing(20, 50), _thing(27, 10)])
    assert Ranked(_CIRCLES, "left", 1).named([_thing(20, 50), _thing(28, 10)]) == [0]


def test_a_large_thing_that_starts_further_left_is_not_passed_over():
    things = [_thing(20, 20, size=10), _thing(30, 80, size=30)]
    with pytest.raises(Unclear):
        Ranked(_CIRCLES, "left", 1).named(things)
    with pytest.raises(Unclear):
        Related(_CIRCLES, "left", _SQUARE).named([_thing(20, 20), _thing(30, 20, "square", size=40)])


def test_relations_are_clear_ahead_unclear_aside_false_behind():
    anchor = _thing(50, 50, "square")
    left = Related(_CIRCLES, "left", _SQUARE)
    assert left.named([anchor, _thing(20, 50), _thing(80, 50), _thing(50, 10)]) == [1]
    for unclear in (_thing(45, 50), _thing(40, 90)):
        with pytest.raises(Unclear):
            left.named([anchor, unclear])
    assert Related(_CIRCLES, "top", _SQUARE).named([anchor, _thing(50, 10), _thing(50, 90)]) == [1]
    assert not refers_to(left, [anchor, _thing(20, 50), _thing(15, 55)], 1)


def test_an_anchor_has_to_be_one_thing():
    with pytest.raises(Unclear):
        Related(_CIRCLES, "left", _SQUARE).named([_thing(20, 50), _thing(60, 50, "square"), _thing(90, 50, "square")])


def test_distance_wants_a_clear_difference_and_leaves_the_anchor_out():
    anything = Described((("size", "small"),))
    things = [_thing(0, 0, "square"), _thing(30, 0), _thing(0, 60)]
    assert Closest(anything, _SQUARE).named(things) == [1]
    assert Closest(anything, _SQUARE, 2).named(things) == [2]
    with pytest.raises(Unclear):
        Closest(anything, _SQUARE).named([_thing(0, 0, "square"), _thing(30, 0), _thing(0, 38)])


def test_negation_and_plurals():
    things = [_thing(0, 0), _thing(20, 0, colour="blue"), _thing(40, 0, colour="green")]
    neither = Described((("shape", "circle"),), (("colour", "red"), ("colour", "blue")))
    assert neither.named(things) == [2]
    assert word(neither, Dice(0)).endswith((" that is neither red nor blue",))
    crosses = {word(Ranked(Described((("shape", "cross"),)), "left", 2), Dice(i)).split(" the ")[-1] for i in range(40)}
    assert {"crosses", "plus signs"} <= crosses
