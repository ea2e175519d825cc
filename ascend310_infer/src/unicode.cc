#include "unicode.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "error.h"

namespace coupalign {
namespace {

struct Range {
  char32_t first, last;
};

/// Every `stride`-th character from first to last becomes `to`; if `slope` is 1, plus its distance from first.
struct Change {
  char32_t first, last, to;
  std::uint8_t stride, slope;
};

/// A character that becomes several characters.
struct Expansion {
  char32_t from;
  const char32_t* to;
};

#include "unicode_table.inc"

// A Hangul syllable consists of one of 19 leading consonants, one of 21 vowels, and one of 27 trailing consonants or none.
constexpr char32_t kSyllables = 0xAC00, kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11A7;
constexpr char32_t kTrailingCount = 28, kPerLeading = 21 * kTrailingCount, kSyllableCount = 19 * kPerLeading;

/// The entry of a sorted table whose range may hold c, or nullptr.
template <typename Entry, std::size_t size>
const Entry* find(const Entry (&table)[size], char32_t c) {
  const Entry* after = std::upper_bound(std::begin(table), std::end(table), c,
                                        [](char32_t value, const Entry& entry) { return value < entry.first; });
  if (after == std::begin(table)) return nullptr;
  const Entry* entry = after - 1;
  return c <= entry->last ? entry : nullptr;
}

}  // namespace

std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t length = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if ((lead >= 0x80 && lead < 0xC2) || lead > 0xF4 || length > text.size() - at) return 0;
  char32_t c = length == 1 ? lead : lead & (0x7F >> length);
  for (std::size_t k = 1; k < length; ++k) {
    const auto next = static_cast<unsigned char>(text[at + k]);
    if ((next & 0xC0) != 0x80) return 0;
    c = c << 6 | (next & 0x3F);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  return c < kSmallest[length] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF) ? 0 : length;
}

std::u32string decode_utf8(std::string_view text, const std::string& what) {
  std::u32string decoded;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text, i);
    if (length == 0) throw Error(what + " is not text in UTF-8");
    char32_t c = static_cast<unsigned char>(text[i]);
    if (length > 1) c &= 0x7F >> length;
    for (std::size_t k = 1; k < length; ++k) c = c << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3F);
    decoded.push_back(c);
    i += length;
  }
  return decoded;
}

void append_utf8(char32_t c, std::string& text) {
  const int following = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  constexpr unsigned char kLead[] = {0, 0xC0, 0xE0, 0xF0};
  text.push_back(static_cast<char>(kLead[following] | (c >> 6 * following)));
  for (int k = following - 1; k >= 0; --k) text.push_back(static_cast<char>(0x80 | (c >> 6 * k & 0x3F)));
}

void normalise(char32_t c, std::u32string& text) {
  if (find(kDropped, c) != nullptr) return;
  if (find(kSpaces, c) != nullptr) {
    text.push_back(U' ');
    return;
  }
  if (c >= kSyllables && c < kSyllables + kSyllableCount) {
    const char32_t index = c - kSyllables;
    text.push_back(kLeading + index / kPerLeading);
    text.push_back(kVowels + index % kPerLeading / kTrailingCount);
    if (index % kTrailingCount != 0) text.push_back(kTrailing + index % kTrailingCount);
    return;
  }
  const bool chinese = find(kChinese, c) != nullptr;
  if (chinese) text.push_back(U' ');
  const auto* end = std::end(kExpanded);
  const auto* expanded = std::lower_bound(std::begin(kExpanded), end, c,
                                          [](const Expansion& entry, char32_t value) { return entry.from < value; });
  const Change* change = find(kChanged, c);
  if (expanded != end && expanded->from == c) {
    text += expanded->to;
  } else if (change != nullptr && (c - change->first) % change->stride == 0) {
    text.push_back(change->to + change->slope * (c - change->first));
  } else {
    text.push_back(c);
  }
  if (chinese) text.push_back(U' ');
}

bool is_punctuation(char32_t c) { return find(kPunctuation, c) != nullptr; }

bool is_alphanumeric(char32_t c) { return find(kAlphanumeric, c) != nullptr; }

}  // namespace coupalign
