"""The reader of REFER's layout: nothing lost, nothing run, and mistakes named."""
from __future__ import annotations

import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest

from src.data.plain_pickle import load_plain_pickle
from src.data.refer import read_refer
from src.errors import UserError
from tests.handmade_refer import Handmade


@pytest.fixture
def handmade(tmp_path) -> Handmade:
    return Handmade(tmp_path)


def _read(handmade: Handmade):
    handmade.write()
    return read_refer(handmade.annotations, handmade.images, "unc")


def test_every_referent_and_every_sentence_is_kept(handmade):
    dataset = _read(handmade)
    assert [referent.ref_id for referent in dataset.referents] == [20, 21, 22]
    assert {(r.ref_id, s.sent_id): s.text for r in dataset.referents for s in r.sentences} == {
        (ref["ref_id"], said["sent_id"]): said["sent"] for ref in handmade.refs for said in ref["sentences"]}
    assert dataset.splits == ["train", "val"]
    assert [r.ref_id for r in dataset.of_split("val")] == [22]
    assert [r.category for r in dataset.referents] == ["cup", "cup", "dog"]
    assert dataset.problems == ()


def test_referents_that_share_an_annotation_both_stay(handmade):
    dataset = _read(handmade)
    first, second = dataset.of_split("train")
    assert first.ann_id == second.ann_id == 1
    assert [s.text for s in first.sentences] != [s.text for s in second.sentences]


def test_masks_and_images(handmade):
    dataset = _read(handmade)
    for ann_id, mask in handmade.masks.items():
        np.testing.assert_array_equal(dataset.mask(ann_id), mask)
    assert dataset.images[7].path == handmade.images / "a.jpg"
    assert (dataset.images[9].height, dataset.images[9].width) == (50, 30)
    assert dataset.annotations_of == {7: [1, 2, 3], 9: [4]}


def test_families_are_read_where_there_are_some(handmade):
    handmade.refs[0]["sentences"][1]["family"] = "extreme"
    dataset = _read(handmade)
    assert [s.family for s in dataset.referents[0].sentences] == ["", "extreme"]


def test_what_was_typed_stands_in_for_an_empty_sentence_and_one_without_a_word_is_counted(handmade):
    handmade.refs[0]["sentences"][0].update(sent=" ", raw="Left cup")
    handmade.refs[0]["sentences"][1].update(sent="", raw=" ")
    handmade.refs[1]["sentences"][0].update(sent="", raw="")
    dataset = _read(handmade)
    assert [s.text for s in dataset.referents[0].sentences] == ["Left cup"]
    assert [r.ref_id for r in dataset.referents] == [20, 22]
    assert [(problem.kind, problem.referents, problem.expressions) for problem in dataset.problems] == [
        ("expression", 0, 1), ("expression", 1, 1)]


def _drop(name):
    return lambda data: data.refs[0].pop(name)


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data.refs[2].update(ann_id=99), r"referent 22: annotation 99 is not in instances\.json"),
    (lambda data: data.refs[2].update(image_id=99), r"referent 22: image 99 is not in instances\.json"),
    (lambda data: data.refs[2].update(image_id=7), "referent 22: annotation 4 is on image 9, not on 7"),
    (lambda data: data.refs[0].update(category_id=8), "referent 20: category 8"),
    (lambda data: data.refs[1].update(ref_id=20), "ref_id 20 occurs twice"),
    (_drop("ann_id"), "referent 20 has no ann_id"), (_drop("sentences"), "referent 20 has no sentences"),
    (_drop("split"), "referent 20 has no split"),
    (lambda data: data.refs[0]["sentences"][0].pop("sent_id"), "referent 20 has a sentence without sent_id"),
    (lambda data: data.refs.clear(), "no list of referents"), (lambda data: data.refs.append(5), "something else"),
    (lambda data: data.instances.pop("categories"), "no list of categories"),
    (lambda data: data.instances["images"][0].pop("height"), "image 7 has no height"),
    (lambda data: data.instances["annotations"][1].pop("id"), "annotation number 1 has no id"),
    (lambda data: data.instances["annotations"][1].update(id=1), "annotation id 1 occurs twice"),
    (lambda data: (data.images / "b.png").unlink(), r"b\.png is missing: .*--images"),
    (lambda data: [path.unlink() for path in data.images.iterdir()], r"a\.jpg is missing, and 1 images more: "),
])
def test_what_does_not_fit_is_refused_by_name(handmade, change, message):
    change(handmade)
    with pytest.raises(UserError, match=message):
        _read(handmade)


def test_missing_and_damaged_files_are_named(handmade):
    with pytest.raises(UserError, match=r"refs\(unc\)\.p is missing.*--annotations"):
        read_refer(handmade.annotations, handmade.images, "unc")
    handmade.write()
    with pytest.raises(UserError, match=r"refs\(google\)\.p is missing"):
        read_refer(handmade.annotations, handmade.images, "google")
    (handmade.annotations / "instances.json").write_text("{")
    with pytest.raises(UserError, match=r"instances\.json cannot be read as JSON"):
        read_refer(handmade.annotations, handmade.images, "unc")
    (handmade.annotations / "refs(unc).p").write_bytes(b"")
    handmade.instances["annotations"].clear()
    (handmade.annotations / "instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match="no pickle, or a damaged one"):
        read_refer(handmade.annotations, handmade.images, "unc")


PLAIN = [{"a": [1, -2**40, 1.5, True, None, "é", b"bytes\xff", b""], "b": ({1, 2}, frozenset([3])), "c": (4, "x" * 300)}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read_whole(tmp_path, protocol):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    assert load_plain_pickle(path) == PLAIN


def test_text_of_python_2_is_read(tmp_path):
    # What Python 2 writes for [{'sent': 'caf\xe9', u'n': 5L}] with protocol 2, and for {'a': 'b'} with protocol 0.
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x80\x02]q\x00}q\x01(U\x04sentq\x02U\x04caf\xe9q\x03X\x01\x00\x00\x00nq\x04\x8a\x01\x05ua.")
    assert load_plain_pickle(path) == [{"sent": "café", "n": 5}]
    path.write_bytes(b"(dp0\nS'a'\np1\nS'b'\np2\ns.")
    assert load_plain_pickle(path) == {"a": "b"}


class _Reduced:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("function", "arguments", "name"), [
    (os.mkdir, ("ran",), r"(posix|os)\.mkdir"), (subprocess.Popen, (["mkdir", "ran"],), r"\.Popen"),
    (eval, ("__import__('os').mkdir('ran')",), "eval"), (getattr, ("text", "upper"), "getattr"),
])
def test_what_would_be_run_is_refused_by_name_and_not_run(tmp_path, monkeypatch, protocol, function, arguments, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([_Reduced(function, *arguments)], protocol=protocol))
    with pytest.raises(UserError, match=f"asks to run .*{name}") as caught:
        load_plain_pickle(path)
    assert str(path) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["refs.p"]


def test_arrays_and_codecs_are_refused_by_name(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(np.arange(3)))
    with pytest.raises(UserError, match="numpy"):
        load_plain_pickle(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.")
    with pytest.raises(UserError, match="codec zlib"):
        load_plain_pickle(path)
    # bytes(10**15) would ask for a petabyte.
    path.write_bytes(b"\x80\x02cbuiltins\nbytes\n\x8a\x07" + (10**15).to_bytes(7, "little") + b"\x85R.")
    with pytest.raises(UserError):
        load_plain_pickle(path)


def test_damaged_pickles_are_user_errors(tmp_path):
    path = tmp_path / "refs.p"
    whole = pickle.dumps(PLAIN, protocol=2)
    ends = {position for _, _, position in pickletools.genops(whole)}
    for length in sorted(ends)[1:]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged"):
            load_plain_pickle(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_plain_pickle(tmp_path / "none.p")
