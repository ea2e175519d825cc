#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace coupalign {

/// An expression as a fixed number of tokens: [CLS] ... [SEP], then padding with id 0.
struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> mask;     // 1 for a token, 0 for padding
  std::vector<std::string> warnings;  // about a truncated part, and words outside the vocabulary
};

/// The uncased WordPiece tokeniser of BERT. Longer expressions are truncated, with [SEP] kept.
class WordPiece {
 public:
  /// Reads a vocabulary, one token per line, [PAD] first. Throws Error if it is missing or invalid.
  WordPiece(const std::filesystem::path& vocabulary, std::size_t max_tokens);

  /// Throws Error if the expression is not UTF-8 or has no word.
  Encoding encode(std::string_view expression) const;

  /// Number of lines of the vocabulary.
  std::size_t size() const { return size_; }

 private:
  struct Piece {
    std::int32_t id;
    std::size_t letters;
    bool continues;  // a word
    std::string word;
  };

  void append_text(std::u32string_view text, std::vector<Piece>& pieces) const;
  void append_word(std::u32string_view word, std::vector<Piece>& pieces) const;
  std::vector<std::string> warnings(const std::vector<Piece>& pieces, bool truncated) const;

  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<std::pair<std::u32string, std::int32_t>> special_;  // tokens that are kept wherever they occur
  std::size_t size_ = 0;
  std::size_t max_tokens_;
};

}  // namespace coupalign
