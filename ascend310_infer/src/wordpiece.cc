#include "wordpiece.h"

#include <algorithm>

#include "error.h"
#include "files.h"
#include "unicode.h"

namespace coupalign {
namespace {

constexpr std::size_t kLongestWord = 100;  // characters; longer words become [UNK]
constexpr const char* kRemedy = ": pass the vocabulary of the training";

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
    if (ids_.count(needed) == 0) throw Error(name + " lacks " + needed + kRemedy);
  }
  if (ids_.at("[PAD]") != 0) throw Error(name + " does not start with [PAD]" + kRemedy);
  for (const char* each : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    if (ids_.count(each) != 0) special_.emplace_back(decode_utf8(each, name), ids_.at(each));
  }
}

Encoding WordPiece::encode(std::string_view expression) const {
  const std::u32string text = decode_utf8(expression, "the expression");
  std::vector<Piece> pieces;
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
    pieces.push_back({found->second, found->first.size(), false, "[UNK]"});
    i += found->first.size();
    start = i;
  }
  append_text(std::u32string_view(text).substr(start), pieces);
  if (pieces.empty() || std::none_of(text.begin(), text.end(), is_alphanumeric)) {
    throw Error("the expression is empty, without a word: say which object is meant, for example \"the left cup\"");
  }
  const bool truncated = pieces.size() > max_tokens_ - 2;
  pieces.resize(std::min(pieces.size(), max_tokens_ - 2));
  Encoding encoding{{ids_.at("[CLS]")}, std::vector<std::int32_t>(pieces.size() + 2, 1), warnings(pieces, truncated)};
  for (const Piece& piece : pieces) encoding.ids.push_back(piece.id);
  encoding.ids.push_back(ids_.at("[SEP]"));
  encoding.ids.resize(max_tokens_, 0);
  encoding.mask.resize(max_tokens_, 0);
  return encoding;
}

void WordPiece::append_text(std::u32string_view text, std::vector<Piece>& pieces) const {
  std::u32string plain;
  for (char32_t c : text) normalise(c, plain);
  plain.push_back(U' ');
  std::size_t start = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const bool punctuation = is_punctuation(plain[i]);
    if (plain[i] != U' ' && !punctuation) continue;
    if (i > start) append_word(std::u32string_view(plain).substr(start, i - start), pieces);
    if (punctuation) append_word(std::u32string_view(plain).substr(i, 1), pieces);
    start = i + 1;
  }
}

void WordPiece::append_word(std::u32string_view word, std::vector<Piece>& pieces) const {
  std::string spelling;
  for (char32_t c : word) append_utf8(c, spelling);
  const std::size_t before = pieces.size();
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
    pieces.push_back({ids_.at(piece), ends.size(), start > 0, spelling});
    start += ends.size();
  }
  if (start == word.size()) return;
  pieces.resize(before);
  pieces.push_back({ids_.at("[UNK]"), word.size(), false, spelling});
}

std::vector<std::string> WordPiece::warnings(const std::vector<Piece>& pieces, bool truncated) const {
  std::vector<std::string> unknown, lines;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    // Two successive pieces of one letter each: the word is spelled out, as m ##u ##g.
    const bool spelled = pieces[i].continues && i > 0 && pieces[i].letters == 1 && pieces[i - 1].letters == 1;
    const bool listed = std::find(unknown.begin(), unknown.end(), pieces[i].word) != unknown.end();
    if ((spelled || pieces[i].id == ids_.at("[UNK]")) && !listed) unknown.push_back(pieces[i].word);
  }
  if (truncated) {
    lines.push_back("the expression is longer than " + std::to_string(max_tokens_ - 2) +
                    " word pieces: it was cut after “" + (pieces.empty() ? "" : pieces.back().word) + "”");
  }
  if (!unknown.empty()) {
    std::string words;
    for (const auto& word : unknown) words += (words.empty() ? "" : ", ") + word;
    lines.push_back("words that are not in the vocabulary: " + words);
  }
  return lines;
}

}  // namespace coupalign
