#include "predict_images.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <opencv2/imgproc.hpp>

#include "error.h"
#include "files.h"
#include "picture.h"
#include "unicode.h"
#include "wordpiece.h"

namespace fs = std::filesystem;

namespace coupalign {
namespace {

struct Expression {
  std::string text;
  Encoding words;
};

/// An image and an expression, whose prediction is due.
struct Pair {
  fs::path image;
  cv::Mat picture;
  std::string input;  // the picture in the form of the model's input
  const Expression* expression;
};

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

/// The given images, and those in given directories.
std::vector<fs::path> find_images(const std::vector<std::string>& paths) {
  const std::vector<std::string> suffixes = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"};
  std::vector<fs::path> images;
  for (const fs::path path : paths) {
    if (!fs::is_directory(path)) {
      images.push_back(path);
      continue;
    }
    const std::size_t before = images.size();
    for (const auto& name : file_names(path)) {
      std::string suffix = fs::path(name).extension().string();
      std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
      if (std::count(suffixes.begin(), suffixes.end(), suffix) != 0) images.push_back(path / name);
    }
    if (images.size() == before) throw Error("directory " + path.string() + " has no images: check its path");
  }
  return images;
}

std::vector<Expression> read_expressions(const Options& options, const Description& description) {
  const WordPiece tokenizer(options.text("vocab"), description.max_tokens);
  if (tokenizer.size() != static_cast<std::size_t>(description.vocabulary_size)) {
    throw Error("--vocab " + options.text("vocab") + " has " + std::to_string(tokenizer.size()) +
                " tokens instead of " + std::to_string(description.vocabulary_size) + ": pass that of the training");
  }
  std::vector<Expression> expressions;
  for (const auto& text : options.texts("expression")) {
    expressions.push_back({text, tokenizer.encode(text)});
    for (const auto& warning : expressions.back().words.warnings) {
      std::cerr << "warning: " << quoted(text) << ": " << warning << '\n';
    }
  }
  return expressions;
}

/// The model's outputs for the pairs, whose number is at most the model's batch size.
std::vector<std::string> run(Runtime& runtime, const Description& description, const std::vector<Pair>& pairs) {
  std::vector<std::string> inputs(3);
  for (int row = 0; row < description.batch; ++row) {
    // The last pair fills an incomplete batch.
    const Pair& pair = pairs[std::min<std::size_t>(row, pairs.size() - 1)];
    const Encoding& words = pair.expression->words;
    inputs[0] += pair.input;
    inputs[1].append(reinterpret_cast<const char*>(words.ids.data()), words.ids.size() * sizeof(std::int32_t));
    inputs[2].append(reinterpret_cast<const char*>(words.mask.data()), words.mask.size() * sizeof(std::int32_t));
  }
  auto outputs = runtime.predict(inputs, pairs[0].image.string());
  const std::size_t map = sizeof(float) * description.image.size * description.image.size;
  if (outputs.empty() || outputs[0].size() != map * description.batch) {
    throw Error("the model's first output is not a probability map: export it with export.py");
  }
  const std::size_t numbers = sizeof(float) * description.batch;
  if (description.existence_threshold && (outputs.size() < 2 || outputs[1].size() != numbers)) {
    throw Error("the model's second output is not a probability: export it with export.py");
  }
  return outputs;
}

/// Writes the files of a pair and prints its line. `map` is its probability map; `existence` is nullptr if the model
/// does not say whether something fits.
void write(const Options& options, const Description& description, const Pair& pair, float* map, const float* existence,
           double milliseconds) {
  const std::string image = pair.image.string(), &expression = pair.expression->text;
  auto warnings = pair.expression->words.warnings;
  const bool nothing_fits = existence != nullptr && *existence < *description.existence_threshold;
  if (nothing_fits) {
    std::ostringstream doubt;
    doubt << "nothing in this image fits the expression (probability " << std::fixed << std::setprecision(2)
          << *existence << " that something does)";
    warnings.insert(warnings.begin(), doubt.str());
    std::cerr << "warning: " << quoted(image) << ", " << quoted(expression) << ": " << doubt.str() << '\n';
  }
  cv::Mat probability, mask;
  const int size = description.image.size;
  cv::resize(cv::Mat(size, size, CV_32F, map), probability, pair.picture.size(), 0, 0, cv::INTER_LINEAR);
  mask = probability > description.threshold;
  if (nothing_fits) mask.setTo(0);
  double largest = 0;
  cv::minMaxLoc(probability, nullptr, &largest);

  const std::string stem = (fs::path(options.text("output")) / file_stem(pair.image, expression)).string();
  write_png(stem + ".mask.png", mask);
  write_png(stem + ".overlay.png", overlay(pair.picture, mask));
  std::cout << "{\"image\": " << quoted(image) << ", \"expression\": " << quoted(expression)
            << ", \"mask\": " << quoted(stem + ".mask.png") << ", \"overlay\": " << quoted(stem + ".overlay.png")
            << ", \"area\": " << static_cast<double>(cv::countNonZero(mask)) / mask.total()
            << ", \"score\": " << largest;
  if (existence != nullptr) {
    std::cout << ", \"existence\": " << *existence << ", \"nothing_fits\": " << (nothing_fits ? "true" : "false");
  }
  std::cout << ", \"milliseconds\": " << milliseconds << ", \"warnings\": [";
  for (std::size_t i = 0; i < warnings.size(); ++i) std::cout << (i > 0 ? ", " : "") << quoted(warnings[i]);
  std::cout << "]}" << std::endl;  // flushed, since the next batch may take long
}

}  // namespace

bool predict_images(const Options& options, const std::function<std::unique_ptr<Runtime>(const Description&)>& load) {
  const auto description = Description::beside(options.text("mindir_path"));
  const auto expressions = read_expressions(options, description);
  const auto images = find_images(options.texts("image"));
  make_directory(options.text("output"));  // before the slow loading of the model
  std::unique_ptr<Runtime> runtime;
  std::vector<Pair> pairs;
  const auto predict = [&] {
    if (!runtime) runtime = load(description);
    const auto begin = std::chrono::steady_clock::now();
    auto outputs = run(*runtime, description, pairs);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    const std::size_t map = outputs[0].size() / description.batch;
    for (std::size_t row = 0; row < pairs.size(); ++row) {
      float existence = 0;
      if (description.existence_threshold) std::memcpy(&existence, &outputs[1][row * sizeof(float)], sizeof(float));
      write(options, description, pairs[row], reinterpret_cast<float*>(&outputs[0][row * map]),
            description.existence_threshold ? &existence : nullptr, time.count() / pairs.size());
    }
    pairs.clear();
  };
  bool complete = true;
  for (const auto& image : images) {
    cv::Mat picture;
    try {
      picture = load_picture(image);
    } catch (const Error& error) {
      std::cerr << "error: " << error.what() << '\n';
      complete = false;
      continue;
    }
    const std::string input = description.image.prepare(picture);
    for (const auto& expression : expressions) {
      pairs.push_back({image, picture, input, &expression});
      if (pairs.size() == static_cast<std::size_t>(description.batch)) predict();
    }
  }
  if (!pairs.empty()) predict();
  return complete;
}

}  // namespace coupalign
