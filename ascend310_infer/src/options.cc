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
    if (has(name.substr(2)) && name != "--image" && name != "--expression") {
      throw Error(name + " is given twice: give it once");
    }
    if (equals == std::string::npos && i + 1 == argc) throw Error(name + " has no value");
    auto& values = values_[name.substr(2)];
    const std::string value = equals == std::string::npos ? argv[++i] : argument.substr(equals + 1);
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
}

std::vector<std::string> Options::texts(const std::string& name) const {
  const auto given = values_.find(name);
  return given == values_.end() ? std::vector<std::string>{text(name)} : given->second;
}

std::string Options::text(const std::string& name) const {
  const auto given = values_.find(name);
  if (given != values_.end()) return given->second.front();
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

With images and expressions:
  coupalign --mindir_path FILE --image PATH --expression TEXT --vocab FILE [--output DIR]
  PATH is an image or a directory. --image and --expression may be given several times: every expression is evaluated on
  every image, in batches of the model's size. For each pair the program writes a .mask.png and an .overlay.png to the
  output directory, and prints a line of JSON that names them. An image that cannot be read is reported and skipped, and
  the exit status is then 2. The .json that export.py wrote must be beside the MindIR.

Both:
  --device_type CPU or Ascend (default CPU)    --device_id NUMBER (default 0)
  --threads NUMBER of CPU threads (default 2)
)";
}

}  // namespace coupalign
