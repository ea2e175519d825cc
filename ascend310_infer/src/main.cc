// Runs CoupAlign without Python, on input files, or on images and expressions. See --help.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <memory>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include "description.h"
#include "error.h"
#include "files.h"
#include "options.h"
#include "predict_images.h"
#include "runtime.h"

namespace fs = std::filesystem;
using coupalign::Description;
using coupalign::Error;
using coupalign::Options;
using coupalign::Runtime;

namespace {

constexpr const char* kResults = "result_Files";
constexpr const char* kTimes = "time_Result";

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Peak memory of this process so far, in MB.
long peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

/// Loads the model. `description` is empty if there is none beside it.
std::unique_ptr<Runtime> load(const Options& options, const std::optional<Description>& description) {
  const std::string device = options.text("device_type");
  const int threads = options.number("threads");
  if (device == "CPU" && description && description->device == "Ascend" && threads > 1) {
    throw Error(options.text("mindir_path") + " was exported for Ascend: pass --threads 1, or export it with "
                "--export_for CPU");
  }
  return std::make_unique<Runtime>(options.text("mindir_path"), description ? description->exporter : "", device,
                                   options.number("device_id"), threads);
}

/// Runs on input files, with the options and results of the model zoo's programs.
void run_files(const Options& options) {
  const std::vector<fs::path> directories = {options.text("input0_path"), options.text("input1_path"),
                                             options.text("input2_path")};
  const auto names = coupalign::file_names(directories[0]);
  if (names.empty()) throw Error("no file in " + directories[0].string() + ": fill it with preprocess.py");
  coupalign::make_directory(kResults);
  coupalign::make_directory(kTimes);
  const auto start = std::chrono::steady_clock::now();
  const fs::path model = options.text("mindir_path");
  std::optional<Description> description;
  if (fs::exists(fs::path(model).replace_extension(".json"))) description = Description::beside(model);
  const auto runtime = load(options, description);
  const double load = milliseconds_since(start);
  std::vector<double> times;
  for (const auto& name : names) {
    std::vector<std::string> inputs;
    for (const auto& directory : directories) inputs.push_back(coupalign::read_file(directory / name, "input"));
    const auto begin = std::chrono::steady_clock::now();
    const auto outputs = runtime->predict(inputs, name);
    times.push_back(milliseconds_since(begin));
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::string file = fs::path(name).stem().string() + "_" + std::to_string(i) + ".bin";
      coupalign::write_file(fs::path(kResults) / file, outputs[i].data(), outputs[i].size());
    }
  }
  std::ostringstream line;
  line << "NN inference cost average time: " << std::accumulate(times.begin(), times.end(), 0.0) / times.size()
       << " ms of infer_count " << times.size() << ", median " << median(times) << " ms, least "
       << *std::min_element(times.begin(), times.end()) << " ms; load time: " << load << " ms; peak memory: "
       << peak_memory() << " MB\n";
  coupalign::write_file(fs::path(kTimes) / "test_perform_static.txt", line.str().data(), line.str().size());
  std::cout << line.str();
}

/// Turns off Lite's log, in which our error line would be lost, unless the user has set it. Its libraries read the
/// setting before main runs, so the program restarts itself.
void silence_lite(char** argv) {
  if (std::getenv("GLOG_v") != nullptr || setenv("GLOG_v", "4", 0) != 0) return;
  execv("/proc/self/exe", argv);
}

}  // namespace

int main(int argc, char** argv) {
  silence_lite(argv);
  try {
    for (int i = 1; i < argc; ++i) {
      if (std::strcmp(argv[i], "--help") == 0 || std::strcmp(argv[i], "-h") == 0) {
        std::cout << Options::help();
        return 0;
      }
    }
    const Options options(argc, argv);
    if (options.has("image") == options.has("input0_path")) {
      throw Error("pass either --image or --input0_path (--help lists all options)");
    }
    bool complete = true;
    if (options.has("image")) {
      complete = coupalign::predict_images(options, [&](const Description& each) { return load(options, each); });
    } else {
      run_files(options);
    }
    std::cout.flush();
    return complete && std::cout ? 0 : 2;
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
