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
  /// Loads and compiles. Throws Error where the file is missing or Lite refuses it, and for an unknown device.
  Runtime(const std::filesystem::path& mindir, const std::string& device_type, int device_id, int threads);

  const std::vector<Port>& inputs() const { return inputs_; }

  /// Runs once. `inputs` are bytes, in the order of `inputs()`, and so is what is returned.
  /// Throws Error where a size is not the model's, or Lite fails; `sample` names the inputs in it.
  std::vector<std::string> predict(const std::vector<std::string>& inputs, const std::string& sample);

 private:
  mindspore::Model model_;
  std::vector<Port> inputs_;
};

}  // namespace coupalign
