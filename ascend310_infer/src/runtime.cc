#include "runtime.h"

#include <dlfcn.h>

#include <cstdint>
#include <memory>

#include "error.h"
#include "files.h"
#include "include/api/context.h"
#include "include/api/status.h"

namespace coupalign {
namespace {

void check(const mindspore::Status& status, const std::string& what) {
  if (status.IsOk()) return;
  std::string reason = status.ToString();
  for (char& c : reason) c = c == '\n' ? ' ' : c;
  throw Error(what + (reason.empty() ? "" : ": " + reason));
}

std::shared_ptr<mindspore::Context> make_context(const std::string& device_type, int device_id, int threads) {
  auto context = std::make_shared<mindspore::Context>();
  context->SetThreadNum(threads);
  auto& devices = context->MutableDeviceInfo();
  if (device_type == "Ascend") {
    auto ascend = std::make_shared<mindspore::AscendDeviceInfo>();
    ascend->SetDeviceID(static_cast<std::uint32_t>(device_id));
    devices.push_back(ascend);
  } else if (device_type != "CPU") {
    throw Error("--device_type is " + device_type + ": choose CPU or Ascend");
  }
  // Also with Ascend, for operators that only the CPU has.
  devices.push_back(std::make_shared<mindspore::CPUDeviceInfo>());
  return context;
}

/// Why Lite could not load a model; its own message is the same for all reasons.
std::string load_failure(const std::string& exporter, const std::string& device_type) {
  if (device_type == "Ascend" && dlopen("libgraph.so", RTLD_LAZY) == nullptr) {
    return "CANN is not available (" + std::string(dlerror()) + "): install it and source its set_env.sh";
  }
  if (!exporter.empty()) {
    return "Lite reads files of its own version only, and MindSpore " + exporter + " exported this one: run export.py " +
           "with the MindSpore of Lite's version. If that is the same, the file is damaged: copy or export it again";
  }
  return "the file is damaged, or not a MindIR: copy or export it again";
}

}  // namespace

Runtime::Runtime(const std::filesystem::path& mindir, const std::string& exporter, const std::string& device_type,
                 int device_id, int threads) {
  const auto context = make_context(device_type, device_id, threads);
  read_file(mindir, "model");
  if (model_.Build(mindir.string(), mindspore::kMindIR, context).IsError()) {
    throw Error("MindSpore Lite cannot load " + mindir.string() + " on " + device_type + ": " +
                load_failure(exporter, device_type));
  }
  for (const auto& input : model_.GetInputs()) {
    inputs_.push_back({input.Name(), input.DataType(), input.Shape(), input.DataSize()});
  }
}

std::vector<std::string> Runtime::predict(const std::vector<std::string>& inputs, const std::string& sample) {
  if (inputs.size() != inputs_.size()) {
    throw Error("the model has " + std::to_string(inputs_.size()) + " inputs instead of " +
                std::to_string(inputs.size()) + ": export it with export.py");
  }
  std::vector<mindspore::MSTensor> tensors, outputs;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Port& port = inputs_[i];
    if (inputs[i].size() != port.bytes) {
      throw Error("input " + std::to_string(i) + " of " + sample + " has " + std::to_string(inputs[i].size()) +
                  " bytes, but the model needs " + std::to_string(port.bytes) + ": run preprocess.py for this model");
    }
    tensors.emplace_back(port.name, port.type, port.shape, inputs[i].data(), inputs[i].size());
    if (tensors.back() == nullptr) throw Error("MindSpore Lite could not allocate memory for the inputs");
  }
  check(model_.Predict(tensors, &outputs), "MindSpore Lite failed on " + sample);
  std::vector<std::string> results;
  for (const auto& output : outputs) {
    const auto data = output.Data();
    if (data == nullptr) throw Error("MindSpore Lite returned no output for " + sample);
    results.emplace_back(static_cast<const char*>(data.get()), output.DataSize());
  }
  return results;
}

}  // namespace coupalign
