#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "picture.h"

namespace coupalign {

/// The description of a MindIR, which export.py writes beside it as .json.
struct Description {
  ImageInput image;
  int batch = 0;
  int max_tokens = 0;
  int vocabulary_size = 0;
  float threshold = 0;
  std::optional<float> existence_threshold;  // of a model that also returns whether something fits
  std::string device;    // for which it was exported
  std::string exporter;  // version of the MindSpore that exported it

  /// Reads the file beside `mindir`. Throws Error if it is missing or invalid.
  static Description beside(std::filesystem::path mindir);
};

}  // namespace coupalign
