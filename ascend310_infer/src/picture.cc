#include "picture.h"

#include <cmath>
#include <cstring>
#include <vector>

#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "error.h"
#include "files.h"
#include "image_file.h"

namespace coupalign {
namespace {

const cv::Vec3b kColour(32, 64, 255);  // blue, green, red

/// Decodes to blue, green, red as stored; empty if OpenCV cannot. Of 16 bits the upper eight count.
cv::Mat decode(const std::string& content, std::size_t size) {
  const cv::Mat bytes(1, static_cast<int>(size), CV_8U, const_cast<char*>(content.data()));
  try {
    cv::Mat picture = cv::imdecode(bytes, cv::IMREAD_COLOR | cv::IMREAD_ANYDEPTH | cv::IMREAD_IGNORE_ORIENTATION);
    if (picture.depth() == CV_16U) {
      picture.forEach<cv::Vec3w>([](cv::Vec3w& pixel, const int*) {
        for (auto& value : pixel.val) value >>= 8;
      });
      picture.convertTo(picture, CV_8U);
    }
    return picture;
  } catch (const cv::Exception&) {  // images beyond OpenCV's limits
    return {};
  }
}

/// Decodes a JPEG without an end marker. All its pixels are there if what follows its data makes no difference; empty
/// otherwise.
cv::Mat decode_without_end(const std::string& content) {
  cv::Mat first;
  for (const auto& tail : {std::string(), std::string(4096, '\0'), std::string(4096, '\xAA')}) {
    const std::string ended = content + tail + "\xFF\xD9";
    const cv::Mat picture = decode(ended, ended.size());
    if (first.empty()) first = picture;
    if (picture.empty() || cv::norm(first, picture, cv::NORM_INF) != 0) return {};
  }
  return first;
}

/// Turns a picture as EXIF's orientation 1 to 8 says.
cv::Mat turned(cv::Mat picture, int orientation) {
  if (orientation >= 5) cv::transpose(picture, picture);
  constexpr int kNone = 2, kVertical = 0, kHorizontal = 1, kBoth = -1;
  constexpr int kFlips[] = {kNone, kHorizontal, kBoth, kVertical, kNone, kHorizontal, kBoth, kVertical};
  const int flip = kFlips[orientation - 1];
  if (flip != kNone) cv::flip(picture, picture, flip);
  return picture;
}

}  // namespace

cv::Mat load_picture(const std::filesystem::path& path) {
  const std::string content = read_file(path, "image"), name = "image " + path.string() + " ";
  ImageFile file;
  try {
    file = ImageFile::read(content);
  } catch (const Error& error) {
    throw Error(name + error.what());
  }
  const cv::Mat picture = file.has_end_marker ? decode(content, file.end) : decode_without_end(content);
  if (!picture.empty()) return turned(picture, file.orientation);
  throw Error(name + (file.has_end_marker ? "is damaged or ends early: use a complete JPEG or PNG file"
                                          : "ends early, and some of its pixels are missing: copy or download it again"));
}

std::string ImageInput::prepare(const cv::Mat& picture) const {
  cv::Mat square, rgb;
  cv::resize(picture, square, cv::Size(size, size), 0, 0, cv::INTER_LINEAR);
  cv::cvtColor(square, rgb, cv::COLOR_BGR2RGB);
  const std::size_t pixels = rgb.total();
  if (!normalised) return std::string(reinterpret_cast<const char*>(rgb.data), 3 * pixels);
  std::vector<float> planes(3 * pixels);
  for (std::size_t i = 0; i < pixels; ++i) {
    for (std::size_t c = 0; c < 3; ++c) planes[c * pixels + i] = (rgb.data[3 * i + c] - mean[c]) / std[c];
  }
  return std::string(reinterpret_cast<const char*>(planes.data()), planes.size() * sizeof(float));
}

cv::Mat overlay(const cv::Mat& picture, const cv::Mat& mask) {
  cv::Mat inner, drawn = picture.clone();
  cv::erode(mask, inner, cv::Mat::ones(3, 3, CV_8U), cv::Point(-1, -1), 1, cv::BORDER_CONSTANT, cv::Scalar(0));
  for (int y = 0; y < drawn.rows; ++y) {
    for (int x = 0; x < drawn.cols; ++x) {
      if (mask.at<uchar>(y, x) == 0) continue;
      auto& pixel = drawn.at<cv::Vec3b>(y, x);
      if (inner.at<uchar>(y, x) == 0) {
        pixel = kColour;
        continue;
      }
      // Halves are rounded to the even neighbour, as in NumPy.
      for (int c = 0; c < 3; ++c) pixel[c] = static_cast<uchar>(std::nearbyint((pixel[c] + kColour[c]) * 0.5));
    }
  }
  return drawn;
}

void write_png(const std::filesystem::path& path, const cv::Mat& pixels) {
  std::vector<uchar> content;
  cv::imencode(".png", pixels, content);
  write_file(path, content.data(), content.size());
}

}  // namespace coupalign
