// Tokens of expressions, to compare this tokeniser with that of training.
//
//   tokenize VOCABULARY MAX_TOKENS < expressions > ids
//
// Each expression follows a line with its length in bytes. For each the program prints a line of ids and warnings,
// separated by " | ", or "error: …".
#include <exception>
#include <iostream>
#include <string>

#include "error.h"
#include "wordpiece.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: tokenize VOCABULARY MAX_TOKENS\n";
    return 2;
  }
  try {
    const coupalign::WordPiece tokenizer(argv[1], std::stoul(argv[2]));
    std::string length;
    while (std::getline(std::cin, length)) {
      std::string expression(std::stoul(length), '\0');
      std::cin.read(expression.data(), static_cast<std::streamsize>(expression.size()));
      try {
        const auto encoding = tokenizer.encode(expression);
        const char* separator = "";
        for (auto id : encoding.ids) {
          std::cout << separator << id;
          separator = " ";
        }
        for (const auto& warning : encoding.warnings) std::cout << " | " << warning;
        std::cout << '\n';
      } catch (const coupalign::Error& error) {
        std::cout << "error: " << error.what() << '\n';
      }
    }
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
