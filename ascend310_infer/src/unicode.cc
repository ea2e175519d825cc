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

/// Every `stride`-th character from first to last becomes `to`, plus its distance from first where `slope` is 1.
struct Change {
  char32_t first, last, to;
  std::uint8_t stride, slope;
};

/// A character that becomes several.
struct Expansion {
  char32_t from;
  const char32_t* to;
};

#include "unicode_table.inc"

// The syllables of Hangul are made of 19 leading consonants, 21 vowels and 27 trailing consonants or none.
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

[[noreturn]] void no_utf8(const std::string& what) { throw Error(what + " is not text in UTF-8"); }

}  // namespace

std::u32string decode_utf8(std::string_view text, const std::string& what) {
  std::u32string decoded;
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int following = lead < 0x80 ? 0 : lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if ((lead >= 0x80 && lead < 0xC2) || lead > 0xF4 || i + following >= text.size()) no_utf8(what);
    char32_t c = following == 0 ? lead : lead & (0x3F >> following);
    for (int k = 1; k <= following; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0) != 0x80) no_utf8(what);
      c = c << 6 | (next & 0x3F);
    }
    constexpr char32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (c < kLeast[following] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) no_utf8(what);
    decoded.push_back(c);
    i += following + 1;
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

}  // namespace coupalign
