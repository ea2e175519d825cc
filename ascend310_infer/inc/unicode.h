#pragma once

#include <string>
#include <string_view>

namespace coupalign {

/// Text of UTF-8 by code points. Throws Error where `text` is no UTF-8; `what` names it.
std::u32string decode_utf8(std::string_view text, const std::string& what);

/// Appends a code point to a string of UTF-8.
void append_utf8(char32_t c, std::string& text);

/// Appends what BERT's uncased normaliser makes of a character: nothing of control characters and accents, a space of
/// every white space, a Chinese character between spaces, of all others the small letters without their accents.
void normalise(char32_t c, std::u32string& text);

/// Whether BERT makes a word of its own of this (normalised) character.
bool is_punctuation(char32_t c);

}  // namespace coupalign
