"""Expressions as WordPiece tokens of bert-base-uncased."""

from __future__ import annotations

import hashlib
import os
import string
from typing import NamedTuple

import numpy as np
from tokenizers import BertWordPieceTokenizer, Encoding
from tokenizers.models import WordPiece

from coupalign.errors import UserError
from coupalign.files import find_file

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class TokenizerReport(NamedTuple):
    """What the tokens of an expression do not say."""

    last: str | None  # the last word that was kept if the expression was truncated; None if all of it was kept
    unknown: tuple[str, ...]  # words outside the vocabulary: with [UNK], or spelled out letter by letter


class Tokenizer:
    """Turns an expression into T tokens: [CLS] ... [SEP], then padding with id 0.

    Longer expressions are truncated, with [SEP] kept; see `report`.

    Args:
        vocab_file: WordPiece vocabulary, one token per line, [PAD] first; found like all files of the configuration.
        max_tokens: T, including [CLS] and [SEP].

    Raises:
        UserError: The vocabulary is missing or invalid.
    """

    def __init__(self, vocab_file: str | os.PathLike, max_tokens: int):
        path = find_file(vocab_file)
        remedy = "set vocab_file to the vocab.txt of bert-base-uncased"
        try:
            content = path.read_bytes()
            pieces = content.decode("utf-8").split("\n")
        except OSError as error:
            raise UserError(f"vocabulary {path} cannot be read ({error.strerror}): {remedy}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"vocabulary {path} is not a text file in UTF-8: {remedy}") from error
        missing = [piece for piece in _SPECIAL if piece not in pieces]
        if missing or pieces[0] != "[PAD]":
            problem = f"lacks {missing[0]}" if missing else "does not start with [PAD]"
            raise UserError(f"vocabulary {path} {problem}: {remedy}")
        self.max_tokens = max_tokens
        self.vocabulary_sha256 = hashlib.sha256(content).hexdigest()
        self.vocabulary_size = len(pieces) - (pieces[-1] == "")
        self._tokenizer = BertWordPieceTokenizer(WordPiece.read_file(str(path)), lowercase=True)
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(length=max_tokens, pad_id=0, pad_token="[PAD]")

    def encode(self, expression: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns token ids and token mask, (T,) int32; the mask is 0 for padding. Raises: UserError without a word."""
        encoding = self._encode(expression)
        return np.array(encoding.ids, np.int32), np.array(encoding.attention_mask, np.int32)

    def tokens(self, expression: str) -> list[str]:
        """Returns the T tokens as text, with [CLS], [SEP] and [PAD]. Raises: UserError, as `encode`."""
        return self._encode(expression).tokens

    def words(self, expression: str) -> list[tuple[str, list[int]]]:
        """Returns the words among the T tokens with the positions of each; [CLS] and [SEP] are included.

        Words are separated by white space and spelled as in the expression; a truncated word keeps its first part.

        Raises: UserError, as `encode`.
        """
        return _words(self._encode(expression), expression)

    def report(self, expression: str) -> TokenizerReport:
        """Returns what the tokens do not say: the truncated part and unknown words. Raises: UserError, as `encode`."""
        encoding = self._encode(expression)
        words, tokens = _words(encoding, expression)[1:-1], encoding.tokens
        unknown = [
            word.strip(string.punctuation) or word
            for word, positions in words
            if "[UNK]" in (pieces := tokens[positions[0] : positions[-1] + 1]) or _spelled_out(pieces)
        ]
        return TokenizerReport(words[-1][0] if encoding.overflowing else None, tuple(dict.fromkeys(unknown)))

    def warnings(self, expression: str) -> tuple[str, ...]:
        """Returns `report` as lines for users; no line if nothing was lost. Raises: UserError, as `encode`."""
        last, unknown = self.report(expression)
        lines = []
        if last is not None:
            lines.append(f"the expression is longer than {self.max_tokens - 2} word pieces: it was cut after “{last}”")
        if unknown:
            lines.append(f"words that are not in the vocabulary: {', '.join(unknown)}")
        return tuple(lines)

    def _encode(self, expression: str) -> Encoding:
        encoding = self._tokenizer.encode(expression)
        if sum(encoding.attention_mask) <= 2 or not has_word(expression):
            raise UserError(
                'the expression is empty, without a word: say which object is meant, for example "the left cup"'
            )
        return encoding


def has_word(expression: str) -> bool:
    """Whether there is a letter or digit of any script in the text."""
    return any(map(str.isalnum, expression))


def _words(encoding: Encoding, expression: str) -> list[tuple[str, list[int]]]:
    words: list[tuple[str, list[int]]] = []
    begin = end = 0
    for position, (span, special) in enumerate(zip(encoding.offsets, encoding.special_tokens_mask)):
        if special:
            if encoding.attention_mask[position]:
                words.append((encoding.tokens[position], [position]))
            continue
        # Characters that the tokenizer drops, such as soft hyphens, do not separate words either.
        goes_on = len(words) > 1 and not any(map(str.isspace, expression[end : span[0]]))
        begin, end = begin if goes_on else span[0], span[1]
        positions = words.pop()[1] if goes_on else []
        words.append((expression[begin:end], [*positions, position]))
    return words


def _spelled_out(pieces: list[str]) -> bool:
    """Whether two pieces of one letter each follow each other within a word, as in m ##u ##g."""
    return any(
        len(first.removeprefix("##")) == 1 and second.startswith("##") and len(second) == 3
        for first, second in zip(pieces, pieces[1:])
    )
