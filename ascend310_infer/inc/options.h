#pragma once

#include <map>
#include <string>
#include <vector>

namespace coupalign {

/// The arguments of a command line, `--name value` or `--name=value`.
class Options {
 public:
  /// Throws Error for an unknown option, one without a value, or one but --image and --expression that is given twice.
  Options(int argc, const char* const* argv);

  bool has(const std::string& name) const { return values_.count(name) != 0; }

  /// The given value or the default. Throws Error if there is neither.
  std::string text(const std::string& name) const;

  /// All different values of an option, or its default. Throws Error if there is neither.
  std::vector<std::string> texts(const std::string& name) const;

  /// The value as a whole number from 0. Throws Error for any other value.
  int number(const std::string& name) const;

  /// The text of --help.
  static const char* help();

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

}  // namespace coupalign
