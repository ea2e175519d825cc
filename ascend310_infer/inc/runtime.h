#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "include/api/model.h"

namespace coupalign {

/// An input or output of a model.
struct Port {
  std::string name;
  mindspore::DataType type;
  std::vector<std::int64_t> shape;
  std::size_t bytes;
};

/// A MindIR in MindSpore Lite.
class Runtime {
 public:
  /// Loads and compiles. `exporter` is the version of MindSpore that exported the file, if known, for messages.
  /// Throws Error if the file is missing, the device is unknown or Lite cannot load the file.
  Runtime(const std::filesystem::path& mindir, const std::string& exporter, const std::string& device_type,
          int device_id, int threads);

  const std::vector<Port>& inputs() const { return inputs_; }

  /// Runs once on bytes in the order of `inputs()`, and returns the bytes of the outputs.
  /// Throws Error, which names the `sample`, if a size is wrong or Lite fails.
  std::vector<std::string> predict(const std::vector<std::string>& inputs, const std::string& sample);

 private:
  mindspore::Model model_;
  std::vector<Port> inputs_;
};

}  // namespace coupalign
