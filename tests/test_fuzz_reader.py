"""Damaged annotation files: the readers succeed, or say in one line what is wrong."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coupalign.data.json_lines import read_json_lines
from coupalign.data.refer import read_refer
from coupalign.data.referents import ReferDataset
from coupalign.errors import UserError
from tests.handmade_refer import Handmade, rectangle

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 300),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["train", "a.jpg", "../../etc", "\0", "\ud800", ""]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "segmentation", "size", "counts", "png", "sent", "raw"]) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
PLAIN = st.recursive(
    SCALARS | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
EXAMPLES = settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def source():
    with tempfile.TemporaryDirectory() as directory:
        data = Handmade(Path(directory))
        data.write()
        yield data


def _ends_well(read: Callable[[], ReferDataset]) -> None:
    """A data set that holds what its type promises, or one line."""
    try:
        dataset = read()
    except UserError as error:
        assert "\n" not in str(error)
        str(error).encode(errors="backslashreplace")
        return
    assert dataset.referents
    assert len({referent.ref_id for referent in dataset.referents}) == len(dataset.referents)
    for referent in dataset.referents:
        for number in (referent.ref_id, *referent.ann_ids, referent.image_id, *(s.sent_id for s in referent.sentences)):
            np.int64(number)
        for text in (referent.category, referent.split, *(s.text for s in referent.sentences)):
            text.encode()
        assert "/" not in referent.split
        assert referent.sentences
        assert all(sentence.text for sentence in referent.sentences)
        assert set(referent.ann_ids) <= set(dataset.annotations_of[referent.image_id])
        image = dataset.images[referent.image_id]
        for ann_id in referent.ann_ids if image.height * image.width < 10**6 else ():
            try:
                mask = dataset.mask(ann_id)
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert mask.shape == (image.height, image.width)
                assert mask.any()


def _changed(data: st.DataObject, tree: Any, values: st.SearchStrategy) -> Any:
    """The tree with something, somewhere, that is something else, gone, or there twice."""
    tree = json.loads(json.dumps(tree))
    for _ in range(data.draw(st.integers(1, 3))):
        node, parent, key = tree, None, None
        while isinstance(node, (dict, list)) and node and (parent is None or data.draw(st.integers(0, 5))):
            parent, key = node, data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
            node = parent[key]
        if parent is None:
            return data.draw(values)
        change = data.draw(st.integers(0, 4))
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, list):
            parent.insert(key, node)
        else:
            parent[key] = data.draw(values)
    return tree


def _damaged(data: st.DataObject, content: bytes) -> bytes:
    """Content with bytes changed, put in or taken out, or ending early."""
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 9)))
        content = content[:start] + data.draw(st.binary(max_size=9)) + content[end:]
    return content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content


def _read(source: Handmade, data: st.DataObject, instances: bytes | None = None, refs: bytes | None = None) -> None:
    if instances is not None:
        (source.annotations / "instances.json").write_bytes(instances)
    if refs is not None:
        (source.annotations / "refs(unc).p").write_bytes(refs)
    skip = data.draw(st.booleans())
    try:
        _ends_well(lambda: read_refer(source.annotations, source.images, "unc", skip))
    finally:
        source.write()


@EXAMPLES
@given(st.data())
def test_instances_with_anything_anywhere_or_damaged_bytes(source, data):
    changed = _changed(data, source.instances, JSON) if data.draw(st.booleans()) else None
    content = json.dumps(source.instances if changed is None else changed).encode()
    _read(source, data, instances=_damaged(data, content) if changed is None else content)


@EXAMPLES
@given(st.data())
def test_refs_with_anything_anywhere_or_damaged_bytes(source, data):
    protocol = data.draw(st.integers(0, pickle.HIGHEST_PROTOCOL))
    if data.draw(st.booleans()):
        _read(source, data, refs=pickle.dumps(_changed(data, source.refs, PLAIN), protocol=protocol))
    else:
        _read(source, data, refs=_damaged(data, pickle.dumps(source.refs, protocol)))


@EXAMPLES
@given(st.data())
def test_refs_in_the_layout_of_grefcoco_with_anything_anywhere_or_damaged_bytes(source, data):
    lists = [{**ref, "ann_id": [ref["ann_id"]], "category_id": [ref["category_id"]]} for ref in source.refs]
    refs = [*lists, {**source.refs[0], "ref_id": 30, "ann_id": [-1], "category_id": [-1], "no_target": True}]
    refs[0]["ann_id"] += [2, 3]
    changed = _changed(data, refs, JSON) if data.draw(st.booleans()) else None
    content = json.dumps(refs if changed is None else changed).encode()
    file = source.annotations / "grefs(unc).json"
    file.write_bytes(_damaged(data, content) if changed is None else content)
    skip = data.draw(st.booleans())
    _ends_well(lambda: read_refer(source.annotations, source.images, "unc", skip, generalised=True))


@EXAMPLES
@given(st.data())
def test_refs_of_any_instructions(source, data):
    code = data.draw(
        st.lists(
            st.sampled_from(b"(.012FIJKLMNRSTUVXabcd}eghijlopqrstu]GB\x80\x81\x82\x85\x8c\x93\x94\x95")
            | st.integers(0, 255),
            max_size=40,
        )
    )
    _read(source, data, refs=bytes(code) + b".")


LINES = [
    {"image": "a.jpg", "expression": "cup", "mask": [rectangle(10, 5, 30, 15)], "split": "val", "ref_id": 1},
    {"image": "b.png", "expression": "dog", "mask": {"size": [50, 30], "counts": [0, 500, 1000]}, "ref_id": 2},
    {"image": "b.png", "expression": "dog", "mask": {"png": "b.png"}, "category": "dog", "ref_id": 3},
]


@EXAMPLES
@given(st.data())
def test_lines_with_anything_anywhere(source, data):
    lines = _changed(data, LINES, JSON)
    content = "\n".join(map(json.dumps, lines if isinstance(lines, list) else [lines])).encode()
    if data.draw(st.booleans()):
        content = _damaged(data, content)
    file = source.images / "own.jsonl"
    file.write_bytes(content)
    skip = data.draw(st.booleans())
    _ends_well(lambda: read_json_lines(file, source.images, skip))
