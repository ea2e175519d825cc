#include "options.h"

#include <algorithm>
#include <cctype>

#include "error.h"

namespace coupalign {
namespace {

/// All options with their defaults; nullptr if there is none.
const std::map<std::string, const char*>& defaults() {
  static const std::map<std::string, const char*> all = {
      {"mindir_path", nullptr}, {"device_type", "CPU"},    {"device_id", "0"}, {"threads", "2"},
      {"input0_path", nullptr}, {"input1_path", nullptr},  {"input2_path", nullptr},
      {"image", nullptr},       {"expression", nullptr},   {"vocab", nullptr}, {"output", "."},
  };
  return all;
}

}  // namespace

Options::Options(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    if (name.compare(0, 2, "--") != 0 || defaults().count(name.substr(2)) == 0) {
      throw Error("unknown option " + name + " (--help lists all)");
    }
    if (has(name.substr(2))) throw Error(name + " is given twice: give it once");
    if (equals == std::string::npos && i + 1 == argc) throw Error(name + " has no value");
    values_[name.substr(2)] = equals == std::string::npos ? argv[++i] : argument.substr(equals + 1);
  }
}

std::string Options::text(const std::string& name) const {
  const auto given = values_.find(name);
  if (given != values_.end()) return given->second;
  const char* otherwise = defaults().at(name);
  if (otherwise == nullptr) throw Error("--" + name + " is missing (--help lists all options)");
  return otherwise;
}

int Options::number(const std::string& name) const {
  const std::string value = text(name);
  const bool digits = std::all_of(value.begin(), value.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  if (value.empty() || value.size() > 6 || !digits) throw Error("--" + name + " is " + value + ": give a whole number");
  return std::stoi(value);
}

const char* Options::help() {
  return R"(Runs an exported CoupAlign with MindSpore Lite.

With inputs in files, one sample per file (from preprocess.py):
  coupalign --mindir_path FILE --input0_path DIR --input1_path DIR --input2_path DIR
  Files of the same name hold the image, the token ids and the token mask of a sample. Writes the outputs to
  result_Files/<name>_<number>.bin, and the time to time_Result/test_perform_static.txt.

With an image and an expression:
  coupalign --mindir_path FILE --image FILE --expression TEXT --vocab FILE [--output DIR]
  Writes a .mask.png and an .overlay.png to the directory, and prints a line of JSON that names them.
  The .json that export.py wrote must be beside the MindIR.

Both:
  --device_type CPU or Ascend (default CPU)    --device_id NUMBER (default 0)
  --threads NUMBER of CPU threads (default 2)
)";
}

}  // namespace coupalign
