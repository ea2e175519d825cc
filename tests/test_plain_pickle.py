"""Pickles: plain data are read; everything else is refused by name, and not run."""

from __future__ import annotations

import os
import pickle
import pickletools
import resource
import struct
import subprocess

import numpy as np
import pytest

from coupalign.data.plain_pickle import load_plain_pickle
from coupalign.errors import UserError

PLAIN = [
    {"a": [1, -(2**40), 1.5, True, None, "é", b"bytes\xff", b""], "b": ({1, 2}, frozenset([3])), "c": (4, "x" * 300)}
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read_whole(tmp_path, protocol):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    assert load_plain_pickle(path) == PLAIN


def test_text_of_python_2_is_read(tmp_path):
    # How Python 2 writes [{'sent': 'caf\xe9', u'n': 5L}] with protocol 2, and {'a': 'caf\xc3\xa9'} with protocol 0.
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x80\x02]q\x00}q\x01(U\x04sentq\x02U\x04caf\xe9q\x03X\x01\x00\x00\x00nq\x04\x8a\x01\x05ua.")
    assert load_plain_pickle(path) == [{"sent": "café", "n": 5}]
    path.write_bytes(b"(dp0\nS'a'\np1\nS'caf\\xc3\\xa9'\np2\ns.")
    assert load_plain_pickle(path) == {"a": "caf\u00e9"}


class _Reduced:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.mkdir, ("ran",), r"(posix|os)\.mkdir"),
        (subprocess.Popen, (["mkdir", "ran"],), r"\.Popen"),
        (eval, ("__import__('os').mkdir('ran')",), "eval"),
        (getattr, ("text", "upper"), "getattr"),
    ],
)
def test_what_would_be_run_is_refused_by_name_and_not_run(tmp_path, monkeypatch, protocol, function, arguments, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([_Reduced(function, *arguments)], protocol=protocol))
    with pytest.raises(UserError, match=f"wants to run .*{name}") as caught:
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x02K\x01Q.", "the instruction BINPERSID"),
        (b"Psomewhere\n.", "the instruction PERSID"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"ios\nmkdir\n(S'ran'\no.", r"os\.mkdir"),
        (b"(cos\nmkdir\nS'ran'\no.", r"os\.mkdir"),
        (b"\x80\x02cos\nmkdir\nU\x03ran\x85\x81.", r"os\.mkdir"),
        (b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x03ran\x85R.", r"os\.mkdir"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.", r"builtins\.set\.__init__"),
        (b"c__builtin__\neval\n(S'1'\ntR.", r"__builtin__\.eval"),
        (b"ccopy_reg\n_reconstructor\n.", "copy_reg"),
        (b"cbuiltins\ngetattr\n(}S'get'\ntR.", r"builtins\.getattr"),
        (b"c_codecs\ndecode\n.", r"_codecs\.decode"),
        (b"c__builtin__\nset\n}S'__setstate__'\nNsb.", "the instruction BUILD"),
        (b"cbuiltins\nset\n)\x81.", "the instruction NEWOBJ"),
        (b"cbuiltins\nset\n)}\x92.", "the instruction NEWOBJ_EX"),
        (b"\x80\x05\x96\x05\x00\x00\x00\x00\x00\x00\x00hello.", "the instruction BYTEARRAY8"),
    ],
)
def test_instructions_that_plain_data_do_not_need_are_refused_by_name(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"wants to run {said}"):
        load_plain_pickle(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["refs.p"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b".",  # remembers its list as the last of four thousand millions
        b"]p99999999999\n.",
        b"\x80\x04\x8d"
        + struct.pack("<Q", 10**10)
        + b"text.",  # ten gigabytes of text, of bytes, of a frame, of a number
        b"\x80\x02B" + struct.pack("<I", 2**32 - 1) + b"bytes.",
        b"\x80\x04\x95" + struct.pack("<Q", 10**10) + b"].",
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\1.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"(" * 10**5 + b".",
        b")" + b"\x85" * 10**5 + b".",
    ],
)
def test_what_a_pickle_claims_takes_no_memory(tmp_path, content):
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_plain_pickle(path)
    except UserError as error:
        assert str(path) in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB
