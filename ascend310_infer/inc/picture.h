#pragma once

#include <array>
#include <filesystem>
#include <string>

#include <opencv2/core.hpp>

namespace coupalign {

/// The upright image of a file: 8-bit blue, green, red. Throws Error if the file is missing, not an image, damaged, or
/// lacks some of its pixels.
cv::Mat load_picture(const std::filesystem::path& path);

/// The form of a model's image input: a square of side `size`, resized by bilinear interpolation without keeping the
/// aspect ratio.
struct ImageInput {
  int size = 0;
  bool normalised = true;  // planes of float32, (value - mean) / std; otherwise red, green, blue bytes
  std::array<float, 3> mean{};  // red, green and blue, from 0 to 255
  std::array<float, 3> std{};

  /// The bytes of the input for one image.
  std::string prepare(const cv::Mat& picture) const;
};

/// The picture with the pixels of `mask` (8 bits, nonzero) tinted and its inner outline drawn.
cv::Mat overlay(const cv::Mat& picture, const cv::Mat& mask);

/// Writes pixels as PNG. Throws Error.
void write_png(const std::filesystem::path& path, const cv::Mat& pixels);

}  // namespace coupalign
