#include "picture.h"

#include <cmath>
#include <cstring>
#include <vector>

#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "error.h"
#include "files.h"

namespace coupalign {
namespace {

const cv::Vec3b kColour(32, 64, 255);  // blue, green, red

/// Whether a JPEG or PNG lacks its end, which decoders fill up with grey. An end inside the data is escaped, one of a
/// thumbnail comes before the data; so the last end is behind the last start.
bool ends_early(const std::string& content) {
  const auto early = [&](const char* start, const char* end) {
    const std::size_t last_start = content.rfind(start), last_end = content.rfind(end);
    return last_end == std::string::npos || (last_start != std::string::npos && last_end <= last_start);
  };
  if (content.compare(0, 2, "\xff\xd8") == 0) return early("\xff\xda", "\xff\xd9");
  return content.compare(0, 4, "\x89PNG") == 0 && early("IDAT", "IEND");
}

}  // namespace

cv::Mat load_picture(const std::filesystem::path& path) {
  const std::string content = read_file(path, "image");
  if (ends_early(content)) throw Error("image " + path.string() + " ends early: copy or fetch it again");
  cv::Mat picture;
  if (!content.empty()) {
    const cv::Mat bytes(1, static_cast<int>(content.size()), CV_8U, const_cast<char*>(content.data()));
    try {
      picture = cv::imdecode(bytes, cv::IMREAD_COLOR);
    } catch (const cv::Exception&) {  // pictures beyond OpenCV's limits; the line below names the file
    }
  }
  if (picture.empty()) {
    throw Error("image " + path.string() + " is no image, or a damaged one: use a JPEG or PNG file");
  }
  return picture;
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
      // Halves to the even neighbour, as NumPy rounds.
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
