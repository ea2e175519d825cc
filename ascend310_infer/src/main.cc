// Runs CoupAlign without Python, on input files or on an image and an expression. See --help.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <opencv2/imgproc.hpp>
#include <sys/resource.h>
#include <unistd.h>

#include "description.h"
#include "error.h"
#include "files.h"
#include "options.h"
#include "picture.h"
#include "runtime.h"
#include "unicode.h"
#include "wordpiece.h"

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
Runtime load(const Options& options, const std::optional<Description>& description) {
  const std::string device = options.text("device_type");
  const int threads = options.number("threads");
  if (device == "CPU" && description && description->device == "Ascend" && threads > 1) {
    throw Error(options.text("mindir_path") + " was exported for Ascend: pass --threads 1, or export it with "
                "--export_for CPU");
  }
  return Runtime(options.text("mindir_path"), description ? description->exporter : "", device,
                 options.number("device_id"), threads);
}

/// Runs on input files, with the options and results of the model zoo's programs.
void run_files(const Options& options) {
  const std::vector<fs::path> directories = {options.text("input0_path"), options.text("input1_path"),
                                             options.text("input2_path")};
  const auto names = coupalign::file_names(directories[0]);
  coupalign::make_directory(kResults);
  coupalign::make_directory(kTimes);
  const auto start = std::chrono::steady_clock::now();
  const fs::path model = options.text("mindir_path");
  std::optional<Description> description;
  if (fs::exists(fs::path(model).replace_extension(".json"))) description = Description::beside(model);
  Runtime runtime = load(options, description);
  const double load = milliseconds_since(start);
  std::vector<double> times;
  for (const auto& name : names) {
    std::vector<std::string> inputs;
    for (const auto& directory : directories) inputs.push_back(coupalign::read_file(directory / name, "input"));
    const auto begin = std::chrono::steady_clock::now();
    const auto outputs = runtime.predict(inputs, name);
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

/// A JSON string. Bytes that are not UTF-8 become \\udc80 to \\udcff, as in Python's file names.
std::string quoted(const std::string& text) {
  std::ostringstream made;
  made << '"' << std::hex << std::setfill('0');
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const std::size_t length = coupalign::utf8_length(text, i);
    if (c == '"' || c == '\\') {
      made << '\\' << text[i];
    } else if (c < 0x20 || length == 0) {
      made << "\\u" << std::setw(4) << (length == 0 ? 0xDC00 + c : c);
    } else {
      made << text.substr(i, length);
    }
    i += std::max<std::size_t>(length, 1);
  }
  made << '"';
  return made.str();
}

/// The start of a prediction's file names, which differs for each image path and expression.
std::string file_stem(const fs::path& image, const std::string& expression) {
  std::uint64_t hash = 14695981039346656037U;  // FNV-1a
  for (const char c : fs::absolute(image).lexically_normal().string() + '\0' + expression) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  }
  constexpr std::size_t kLongest = 100;  // bytes; file names have 255 at most
  const std::string stem = image.stem().string();
  std::string name;
  for (std::size_t i = 0; i < stem.size();) {
    const std::size_t length = std::max<std::size_t>(coupalign::utf8_length(stem, i), 1);
    if (name.size() + length > kLongest) break;
    name += stem.substr(i, length);
    i += length;
  }
  std::ostringstream made;
  made << name << '-' << std::hex << std::setw(16) << std::setfill('0') << hash;
  return made.str();
}

/// Runs on an image and an expression.
void run_image(const Options& options) {
  const auto description = Description::beside(options.text("mindir_path"));
  if (description.batch != 1) throw Error("the model needs several images at a time: export it with --export_batch_size 1");
  const coupalign::WordPiece tokenizer(options.text("vocab"), description.max_tokens);
  if (tokenizer.size() != static_cast<std::size_t>(description.vocabulary_size)) {
    throw Error("--vocab " + options.text("vocab") + " has " + std::to_string(tokenizer.size()) +
                " tokens instead of " + std::to_string(description.vocabulary_size) + ": pass that of the training");
  }
  auto words = tokenizer.encode(options.text("expression"));
  const cv::Mat picture = coupalign::load_picture(options.text("image"));
  const auto bytes = [](const std::vector<std::int32_t>& numbers) {
    return std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(std::int32_t));
  };
  coupalign::make_directory(options.text("output"));  // before the slow loading of the model
  Runtime runtime = load(options, description);
  const auto begin = std::chrono::steady_clock::now();
  auto outputs = runtime.predict({description.image.prepare(picture), bytes(words.ids), bytes(words.mask)},
                                 options.text("image"));
  const double time = milliseconds_since(begin);
  const int size = description.image.size;
  if (outputs.empty() || outputs[0].size() != sizeof(float) * size * size) {
    throw Error("the model's first output is not a probability map: export it with export.py");
  }
  std::optional<float> existence;
  if (description.existence_threshold) {
    if (outputs.size() < 2 || outputs[1].size() != sizeof(float)) {
      throw Error("the model's second output is not a probability: export it with export.py");
    }
    float value = 0;
    std::memcpy(&value, outputs[1].data(), sizeof(float));
    existence = value;
  }
  const bool nothing_fits = existence && *existence < *description.existence_threshold;
  if (nothing_fits) {
    std::ostringstream doubt;
    doubt << "nothing in this image fits the expression (probability " << std::fixed << std::setprecision(2)
          << *existence << " that something does)";
    words.warnings.insert(words.warnings.begin(), doubt.str());
  }
  cv::Mat probability, mask;
  cv::resize(cv::Mat(size, size, CV_32F, outputs[0].data()), probability, picture.size(), 0, 0, cv::INTER_LINEAR);
  mask = probability > description.threshold;
  if (nothing_fits) mask.setTo(0);
  double largest = 0;
  cv::minMaxLoc(probability, nullptr, &largest);

  const std::string stem =
      (fs::path(options.text("output")) / file_stem(options.text("image"), options.text("expression"))).string();
  coupalign::write_png(stem + ".mask.png", mask);
  coupalign::write_png(stem + ".overlay.png", coupalign::overlay(picture, mask));
  std::cout << "{\"image\": " << quoted(options.text("image")) << ", \"expression\": "
            << quoted(options.text("expression")) << ", \"mask\": " << quoted(stem + ".mask.png")
            << ", \"overlay\": " << quoted(stem + ".overlay.png")
            << ", \"area\": " << static_cast<double>(cv::countNonZero(mask)) / mask.total()
            << ", \"score\": " << largest;
  if (existence) {
    std::cout << ", \"existence\": " << *existence << ", \"nothing_fits\": " << (nothing_fits ? "true" : "false");
  }
  std::cout << ", \"milliseconds\": " << time << ", \"warnings\": [";
  for (std::size_t i = 0; i < words.warnings.size(); ++i) {
    std::cout << (i > 0 ? ", " : "") << quoted(words.warnings[i]);
    std::cerr << "warning: " << words.warnings[i] << '\n';
  }
  std::cout << "]}\n";
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
    options.has("image") ? run_image(options) : run_files(options);
    std::cout.flush();
    return std::cout ? 0 : 2;
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
