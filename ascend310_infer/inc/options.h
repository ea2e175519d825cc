#pragma once

#include <map>
#include <string>

namespace coupalign {

/// The arguments of a command line, `--name value` or `--name=value`.
class Options {
 public:
  /// Throws Error for what is no option of the program, is given twice, or lacks its value.
  Options(int argc, const char* const* argv);

  bool has(const std::string& name) const { return values_.count(name) != 0; }

  /// The value given, or the option's default. Throws Error where there is neither.
  std::string text(const std::string& name) const;

  /// The same as a whole number from 0. Throws Error for any other value.
  int number(const std::string& name) const;

  /// What --help prints.
  static const char* help();

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace coupalign
