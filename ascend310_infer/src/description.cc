#include "description.h"

#include <opencv2/core/persistence.hpp>

#include "error.h"
#include "files.h"

namespace coupalign {
namespace {

double number(const cv::FileNode& node) {
  if (!node.isInt() && !node.isReal()) throw Error("a number is missing");
  return node.real();
}

}  // namespace

Description Description::beside(std::filesystem::path mindir) {
  const auto path = mindir.replace_extension(".json");
  const std::string content = read_file(path, "description of the model");
  Description made;
  try {
    const cv::FileStorage file(content, cv::FileStorage::READ | cv::FileStorage::MEMORY | cv::FileStorage::FORMAT_JSON);
    const cv::FileNode image = file["image"], text = file["text"];
    made.image.size = static_cast<int>(number(image["size"]));
    made.image.normalised = number(image["normalised"]) != 0;
    for (int c = 0; c < 3; ++c) {
      made.image.mean[c] = static_cast<float>(number(image["mean"][c]));
      made.image.std[c] = static_cast<float>(number(image["std"][c]));
    }
    made.batch = static_cast<int>(number(file["inputs"][0]["shape"][0]));
    made.max_tokens = static_cast<int>(number(text["max_tokens"]));
    made.vocabulary_size = static_cast<int>(number(text["vocabulary_size"]));
    made.device = file["device"].string();
    made.exporter = file["versions"]["mindspore"].string();
    made.threshold = static_cast<float>(number(file["threshold"]));
    if (!file["existence_threshold"].empty()) {
      made.existence_threshold = static_cast<float>(number(file["existence_threshold"]));
    }
  } catch (const std::exception&) {  // OpenCV's for invalid JSON, ours for missing numbers
    throw Error(path.string() + " does not describe a model: export the model again");
  }
  if (made.image.size < 1 || made.batch < 1 || made.max_tokens < 3) {
    throw Error(path.string() + " is damaged: export the model again");
  }
  return made;
}

}  // namespace coupalign
