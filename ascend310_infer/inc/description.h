#pragma once

#include <filesystem>
#include <string>

#include "picture.h"

namespace coupalign {

/// What export.py says of a MindIR, in the file of its name that ends in .json.
struct Description {
  ImageInput image;
  int batch = 0;
  int max_tokens = 0;
  int vocabulary_size = 0;
  float threshold = 0;
  std::string device;  // it was exported for

  /// Throws Error where the file is missing or is none of export.py's.
  static Description beside(std::filesystem::path mindir);
};

}  // namespace coupalign
