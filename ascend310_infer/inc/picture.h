#pragma once

#include <array>
#include <filesystem>
#include <string>

#include <opencv2/core.hpp>

namespace coupalign {

/// Pixels of an image file as people see it, upright: 8-bit blue, green, red. Throws Error for a file that is missing,
/// no image, damaged, or ends early.
cv::Mat load_picture(const std::filesystem::path& path);

/// What a model takes of an image: the square of side `size`, resized by bilinear interpolation without keeping the
/// aspect.
struct ImageInput {
  int size = 0;
  bool normalised = true;  // planes of float32, less `mean` and over `std`; else red, green, blue bytes
  std::array<float, 3> mean{};  // of red, green and blue, on 0 … 255
  std::array<float, 3> std{};

  /// The bytes of the input, of one image.
  std::string prepare(const cv::Mat& picture) const;
};

/// The picture with the pixels of `mask` (8 bits, 0 or not) tinted, and outlined within.
cv::Mat overlay(const cv::Mat& picture, const cv::Mat& mask);

/// Writes pixels as PNG. Throws Error.
void write_png(const std::filesystem::path& path, const cv::Mat& pixels);

}  // namespace coupalign
