// Word pieces of expressions, for comparing this tokeniser with another.
//
//   tokenize VOCABULARY MAX_TOKENS < expressions > ids
//
// Each expression comes after a line with its length in bytes. Prints a line of ids each, or "error: …" where there
// are none.
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
        const char* separator = "";
        for (auto id : tokenizer.encode(expression).ids) {
          std::cout << separator << id;
          separator = " ";
        }
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
