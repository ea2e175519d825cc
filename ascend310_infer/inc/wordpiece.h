#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace coupalign {

/// An expression as a fixed number of word pieces: [CLS] … [SEP], then padding with id 0.
struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> mask;  // 1 for a real piece, 0 for padding
};

/// The uncased WordPiece tokeniser of BERT. What is too long is cut, with [SEP] kept.
class WordPiece {
 public:
  /// Reads a vocabulary, a piece a line, [PAD] first. Throws Error where it is missing or is none.
  WordPiece(const std::filesystem::path& vocabulary, std::size_t max_tokens);

  /// Throws Error for an expression that is no UTF-8 or holds no word.
  Encoding encode(std::string_view expression) const;

  /// Number of the vocabulary's lines.
  std::size_t size() const { return size_; }

 private:
  void append_text(std::u32string_view text, std::vector<std::int32_t>& ids) const;
  void append_word(std::u32string_view word, std::vector<std::int32_t>& ids) const;

  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<std::pair<std::u32string, std::int32_t>> special_;  // taken as they are, wherever they stand in a text
  std::size_t size_ = 0;
  std::size_t max_tokens_;
};

}  // namespace coupalign
