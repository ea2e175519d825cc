#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace coupalign {

/// The code points of a UTF-8 text. Throws Error, which starts with `what`, if the text is not UTF-8.
std::u32string decode_utf8(std::string_view text, const std::string& what);

/// Appends a code point to a string of UTF-8.
void append_utf8(char32_t c, std::string& text);

/// Appends the result of BERT's uncased normaliser for a character: nothing for control characters and accents, a space
/// for white space, spaces around a Chinese character, and for all others lower case without accents.
void normalise(char32_t c, std::u32string& text);

/// Whether BERT treats this normalised character as a word of its own.
bool is_punctuation(char32_t c);

/// Whether a character is a letter or digit of any script, as Python's str.isalnum.
bool is_alphanumeric(char32_t c);

/// Bytes of the UTF-8 character at `at`; 0 if there is no valid one.
std::size_t utf8_length(std::string_view text, std::size_t at);

}  // namespace coupalign
