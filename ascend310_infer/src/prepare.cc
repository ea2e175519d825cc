// The processing of images before and after the model, to compare it with that of training.
//
//   prepare IMAGE SIZE MASK OUTPUT
//
// Writes to the directory OUTPUT the model's input of side SIZE, as raw.bin (bytes) and normalised.bin (float32, with
// ImageNet's mean and standard deviation), and overlay.png, the image with a mask of its size.
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>

#include <opencv2/imgcodecs.hpp>

#include "error.h"
#include "files.h"
#include "picture.h"

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: prepare IMAGE SIZE MASK OUTPUT\n";
    return 2;
  }
  try {
    const std::filesystem::path output = argv[4];
    const cv::Mat picture = coupalign::load_picture(argv[1]);
    coupalign::ImageInput input{std::stoi(argv[2]), false, {123.675F, 116.28F, 103.53F}, {58.395F, 57.12F, 57.375F}};
    const std::string raw = input.prepare(picture);
    input.normalised = true;
    const std::string normalised = input.prepare(picture);
    coupalign::write_file(output / "raw.bin", raw.data(), raw.size());
    coupalign::write_file(output / "normalised.bin", normalised.data(), normalised.size());
    const cv::Mat mask = cv::imread(argv[3], cv::IMREAD_GRAYSCALE);
    if (mask.size() != picture.size()) throw coupalign::Error(std::string(argv[3]) + " is not a mask of this image");
    coupalign::write_png(output / "overlay.png", coupalign::overlay(picture, mask));
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
