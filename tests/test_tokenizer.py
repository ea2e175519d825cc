"""Word pieces against Hugging Face's own BertTokenizer on the same vocabulary."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError

VOCABULARY = Path(__file__).parent.parent / "assets/bert-base-uncased-vocab.txt"
OURS = Tokenizer(VOCABULARY, 12)
THEIRS = BertTokenizer(str(VOCABULARY), do_lower_case=True)


def _theirs(expression: str) -> tuple[list[int], list[int]]:
    encoded = THEIRS(expression, truncation=True, max_length=12, padding="max_length")
    return encoded["input_ids"], encoded["attention_mask"]


# Blocks that have long been complete: the two take newer characters from Unicode tables of different age.
_CHARACTERS = (
    st.characters(max_codepoint=0x24F)
    | st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5)
    | st.sampled_from("’“”–—…€αβДж한글ひカกُ🐶\u200b\u3000\ufeff")
)


@pytest.mark.parametrize(
    ("expression", "words", "pieces"),
    [
        ("the hexagonal ring", ["the", "hexagonal", "ring"], [1, 3, 1]),
        (" Étoile (left),\tdog's\n", ["Étoile", "(left),", "dog's"], [3, 4, 3]),
        # A soft hyphen; the last of three pieces is cut.
        (
            "a half\u00adway  dodecahedron red blue green icosahedron",
            ["a", "half\u00adway", "dodecahedron", "red", "blue", "green", "icosa"],
            [1, 1, 3, 1, 1, 1, 2],
        ),
    ],
)
def test_words_are_what_stands_between_blanks(expression, words, pieces):
    expected, slot = [("[CLS]", [0])], 1
    for word, count in [*zip(words, pieces, strict=True), ("[SEP]", 1)]:
        expected.append((word, list(range(slot, slot + count))))
        slot += count
    assert OURS.words(expression) == expected


@given(st.lists(st.sampled_from(["left", "hexagonal", "dog's", "(red)", "déjà-vu"]), min_size=1, max_size=9))
def test_words_share_all_pieces_among_them(expression):
    words = OURS.words("  ".join(expression))
    slots = [slot for _, each in words for slot in each]
    assert slots == list(range(OURS.encode(" ".join(expression))[1].sum()))
    spelt = [word for word, _ in words[1:-1]]
    assert spelt[:-1] == expression[: len(spelt) - 1] and expression[len(spelt) - 1].startswith(spelt[-1])


@pytest.mark.parametrize(
    ("vocabulary", "expression", "last", "unknown"),
    [
        ("bert-base-uncased", "the mug on the table", None, []),
        ("bert-base-uncased", "t-shirt wmn \u7ea2\u8272\u7684\u72d7", None, ["wmn", "\u7ea2\u8272\u7684\u72d7"]),
        ("bert-base-uncased", "dog " * 40, "dog", []),
        ("refshapes", "the small red ring left of the star", None, []),
        ("refshapes", "the mug", None, ["mug"]),
        ("refshapes", "\u732b", None, ["\u732b"]),
    ],
)
def test_truncated_expressions_and_unknown_words_are_reported(vocabulary, expression, last, unknown):
    tokenizer = Tokenizer(VOCABULARY.with_name(f"{vocabulary}-vocab.txt"), 12)
    assert tokenizer.report(expression) == (last, tuple(unknown))
    warnings = " ".join(tokenizer.warnings(expression))
    assert all(word in warnings for word in unknown)
    assert ("cut after" in warnings) == (last is not None)


@given(st.text(st.characters(max_codepoint=0x7E), min_size=1, max_size=40))
def test_refshapes_vocabulary_knows_any_ascii_text(expression):
    small = Tokenizer(VOCABULARY.with_name("refshapes-vocab.txt"), 64)
    try:
        pieces = small.tokens(expression)
    except UserError:
        pieces = []
    assert "[UNK]" not in pieces or "[UNK]" in expression


_WORDS = (
    "left LEFT leftmost man's woman-in-red skateboarder unaffable 2nd 3.5 10,000 café naïve Ångström "
    "ÉCOLE jalapeño façade Zürich straße ﬁsh ½ № 狗 红色的狗 左から二番目 ネコ 개 красный собака κύων الكلب कुत्ता "
    "หมา 🐶 ❤️ ☕ … — “quoted” ’tis ¿que? #1 @home $5 50% a/b (parens) [SEP] [CLS] [MASK] [UNK] ##ing ~ "
    "` ^ & * _under_score C++ zebra.in.the.middle supercalifragilisticexpialidocious "
).split() + [
    "e\u0301",
    "n\u0303",
    "👩\u200d👩\u200d👧",
    "\u200b",
    "\ufeff",
    "\t",
    "\n",
    "\u3000",
    "\u00a0",
    "\x00",
    "\x07",
    "x" * 120,
    "𝔪𝔞𝔱𝔥",
]
_MARKS = ["", "", "", ",", ".", "!", "?", "...", "'", '"', ";", " - "]


def _sentences(count: int) -> list[str]:
    """Expressions as people might type them, from a seed; some without a word, some very long."""
    random = np.random.default_rng(0)
    sentences = []
    for _ in range(count):
        length = random.choice([0, 1, 2, 3, 5, 8, 13, 60], p=[0.04, 0.1, 0.16, 0.2, 0.2, 0.16, 0.1, 0.04])
        words = [_WORDS[i] + _MARKS[j] for i, j in random.integers((len(_WORDS), len(_MARKS)), size=(length, 2))]
        sentences.append((" ", "  ", "")[random.choice(3, p=[0.8, 0.1, 0.1])].join(words))
    return sentences


@settings(max_examples=1000)
@given(st.text(_CHARACTERS, min_size=1, max_size=40) | st.sampled_from(_sentences(5000)))
def test_equals_hugging_face_on_any_text(expression):
    """The Python tokenizer of Hugging Face, and in ours an error exactly where it finds no word."""
    ids, mask = _theirs(expression)
    if sum(mask) == 2 or not any(map(str.isalnum, expression)):
        with pytest.raises(UserError):
            OURS.encode(expression)
    else:
        ours = OURS.encode(expression)
        assert (ours[0].tolist(), ours[1].tolist()) == (ids, mask)


def test_slots_by_hand():
    ids, mask = OURS.encode("the dog")
    assert ids.dtype == mask.dtype == np.int32
    assert ids.tolist() == [101, 1996, 3899, 102] + [0] * 8
    assert mask.tolist() == [1] * 4 + [0] * 8
    assert OURS.tokens("the skateboarder") == ["[CLS]", "the", "skate", "##board", "##er", "[SEP]"] + ["[PAD]"] * 6


@pytest.mark.parametrize("expression", ["", "   ", "\t\n", "\x00\x07", "!!!", "\u2764 ..."])
def test_an_empty_expression_is_refused(expression):
    for ask in (OURS.encode, OURS.tokens):
        with pytest.raises(UserError, match="empty"):
            ask(expression)


def test_the_vocabulary_is_bert_base_uncased():
    content = VOCABULARY.read_bytes()
    pieces = content.decode().split("\n")
    assert len(pieces) == 30523
    assert pieces[-1] == ""
    assert [pieces.index(piece) for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 100, 101, 102, 103]
    assert OURS.vocabulary_sha256 == hashlib.sha256(content).hexdigest()
    assert OURS.vocabulary_sha256 in (VOCABULARY.parent / "README.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"[PAD]\n[UNK]\n[CLS]\n", r"lacks \[SEP\]"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[UNK]\n[PAD]\n[CLS]\n[SEP]\n", r"does not start with \[PAD\]"),
        (b"", r"lacks \[PAD\]"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer(path, 12)
    assert str(path) in str(caught.value)
    assert "vocab_file" in str(caught.value)
