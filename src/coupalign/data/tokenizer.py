"""Expressions as word pieces of bert-base-uncased."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from tokenizers import BertWordPieceTokenizer, Encoding
from tokenizers.models import WordPiece

from coupalign.errors import UserError
from coupalign.files import find_file

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class Tokenizer:
    """Turns an expression into a fixed number of word pieces: [CLS] … [SEP], then padding with id 0.

    An expression that is too long is cut, with [SEP] kept.

    Args:
        vocab_file: WordPiece vocabulary, one piece a line, [PAD] first; found like all files of the configuration.
        max_tokens: slots T, [CLS] and [SEP] included.

    Raises: UserError for a vocabulary that is missing or is none.
    """

    def __init__(self, vocab_file: str | os.PathLike, max_tokens: int):
        path = find_file(vocab_file)
        try:
            content = path.read_bytes()
            pieces = content.decode("utf-8").split("\n")
        except OSError as error:
            raise UserError(
                f"vocabulary {path} cannot be read ({error.strerror}): set vocab_file to the vocab.txt of "
                "bert-base-uncased"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"vocabulary {path} is not a text file in UTF-8: set vocab_file to the vocab.txt of bert-base-uncased"
            ) from error
        missing = [piece for piece in _SPECIAL if piece not in pieces]
        if missing or pieces[0] != "[PAD]":
            raise UserError(
                f"vocabulary {path} {'lacks ' + missing[0] if missing else 'does not start with [PAD]'}: "
                "set vocab_file to the vocab.txt of bert-base-uncased"
            )
        self.max_tokens = max_tokens
        self.vocabulary_sha256 = hashlib.sha256(content).hexdigest()
        self.vocabulary_size = len(pieces) - (pieces[-1] == "")
        self._tokenizer = BertWordPieceTokenizer(WordPiece.read_file(str(path)), lowercase=True)
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(length=max_tokens, pad_id=0, pad_token="[PAD]")

    def encode(self, expression: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, both (T,) int32; the mask is 1 for a real piece and 0 for padding.

        Raises: UserError for an expression without a word.
        """
        encoding = self._encode(expression)
        return np.array(encoding.ids, np.int32), np.array(encoding.attention_mask, np.int32)

    def tokens(self, expression: str) -> list[str]:
        """The word pieces of the T slots, with [CLS], [SEP] and [PAD]. Raises: UserError as `encode`."""
        return self._encode(expression).tokens

    def words(self, expression: str) -> list[tuple[str, list[int]]]:
        """The words whose pieces are in the T slots, and the slots of each; [CLS] and [SEP] are words, padding is none.

        A word is what stands between blanks, spelt as in the expression; of a word that was cut, it is the part that
        is left. Raises: UserError as `encode`.
        """
        encoding = self._encode(expression)
        words: list[tuple[str, list[int]]] = []
        begin = end = 0
        for slot, (span, special) in enumerate(zip(encoding.offsets, encoding.special_tokens_mask)):
            if special:
                if encoding.attention_mask[slot]:
                    words.append((encoding.tokens[slot], [slot]))
                continue
            # Characters that the tokenizer drops, such as soft hyphens, do not part a word either.
            goes_on = len(words) > 1 and not any(map(str.isspace, expression[end : span[0]]))
            begin, end = begin if goes_on else span[0], span[1]
            slots = words.pop()[1] if goes_on else []
            words.append((expression[begin:end], [*slots, slot]))
        return words

    def fits(self, expression: str) -> bool:
        """Whether all of it goes into the T slots, or it is cut. Raises: UserError as `encode`."""
        return not self._encode(expression).overflowing

    def _encode(self, expression: str) -> Encoding:
        encoding = self._tokenizer.encode(expression)
        if sum(encoding.attention_mask) <= 2:
            raise UserError('the expression is empty: say which object is meant, for example "the left cup"')
        return encoding
