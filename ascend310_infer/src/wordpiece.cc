#include "wordpiece.h"

#include <algorithm>

#include "error.h"
#include "files.h"
#include "unicode.h"

namespace coupalign {
namespace {

constexpr std::size_t kLongestWord = 100;  // characters; a longer word is unknown
constexpr const char* kMend = ": give the vocab.txt of bert-base-uncased";

}  // namespace

WordPiece::WordPiece(const std::filesystem::path& vocabulary, std::size_t max_tokens) : max_tokens_(max_tokens) {
  const std::string content = read_file(vocabulary, "vocabulary");
  const std::string name = "vocabulary " + vocabulary.string();
  decode_utf8(content, name);
  for (std::size_t start = 0; start < content.size(); ++size_) {
    const std::size_t end = std::min(content.find('\n', start), content.size());
    std::string piece = content.substr(start, end - start);
    piece.erase(piece.find_last_not_of(" \t\r") + 1);
    ids_[piece] = static_cast<std::int32_t>(size_);
    start = end + 1;
  }
  for (const char* needed : {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}) {
    if (ids_.count(needed) == 0) throw Error(name + " lacks " + needed + kMend);
  }
  if (ids_.at("[PAD]") != 0) throw Error(name + " does not start with [PAD]" + kMend);
  for (const char* each : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    if (ids_.count(each) != 0) special_.emplace_back(decode_utf8(each, name), ids_.at(each));
  }
}

Encoding WordPiece::encode(std::string_view expression) const {
  const std::u32string text = decode_utf8(expression, "the expression");
  std::vector<std::int32_t> pieces;
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size();) {
    const auto found = std::find_if(special_.begin(), special_.end(), [&](const auto& each) {
      return text.compare(i, each.first.size(), each.first) == 0;
    });
    if (found == special_.end()) {
      ++i;
      continue;
    }
    append_text(std::u32string_view(text).substr(start, i - start), pieces);
    pieces.push_back(found->second);
    i += found->first.size();
    start = i;
  }
  append_text(std::u32string_view(text).substr(start), pieces);
  if (pieces.empty()) {
    throw Error("the expression is empty: say which object is meant, for example \"the left cup\"");
  }
  pieces.resize(std::min(pieces.size(), max_tokens_ - 2));
  pieces.insert(pieces.begin(), ids_.at("[CLS]"));
  pieces.push_back(ids_.at("[SEP]"));
  Encoding encoding{pieces, std::vector<std::int32_t>(pieces.size(), 1)};
  encoding.ids.resize(max_tokens_, 0);
  encoding.mask.resize(max_tokens_, 0);
  return encoding;
}

void WordPiece::append_text(std::u32string_view text, std::vector<std::int32_t>& ids) const {
  std::u32string plain;
  for (char32_t c : text) normalise(c, plain);
  plain.push_back(U' ');
  std::size_t start = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const bool punctuation = is_punctuation(plain[i]);
    if (plain[i] != U' ' && !punctuation) continue;
    if (i > start) append_word(std::u32string_view(plain).substr(start, i - start), ids);
    if (punctuation) append_word(std::u32string_view(plain).substr(i, 1), ids);
    start = i + 1;
  }
}

void WordPiece::append_word(std::u32string_view word, std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  std::size_t start = 0;
  while (start < word.size() && word.size() <= kLongestWord) {
    std::string piece = start > 0 ? "##" : "";
    const std::size_t prefix = piece.size();
    std::vector<std::size_t> ends;  // bytes up to the end of each character
    for (char32_t c : word.substr(start)) {
      append_utf8(c, piece);
      ends.push_back(piece.size());
    }
    while (piece.size() > prefix && ids_.count(piece) == 0) {
      ends.pop_back();
      piece.resize(ends.empty() ? prefix : ends.back());
    }
    if (ends.empty()) break;
    ids.push_back(ids_.at(piece));
    start += ends.size();
  }
  if (start == word.size()) return;
  ids.resize(before);
  ids.push_back(ids_.at("[UNK]"));
}

}  // namespace coupalign
