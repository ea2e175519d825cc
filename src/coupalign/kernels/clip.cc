// Global norm of many tensors, and clipping of the tensors to a largest norm.
#include <cmath>
#include <vector>

#include "threads.h"

namespace {

// `count` floats of a tensor, starting at `first`.
struct Piece {
  int tensor;
  int64_t first, count;
};

std::vector<Piece> cut(int tensors, const int *ranks, int64_t **shapes) {
  std::vector<Piece> pieces;
  for (int i = 0; i < tensors; ++i) {
    int64_t size = 1;
    for (int axis = 0; axis < ranks[i]; ++axis) size *= shapes[i][axis];
    for (int64_t first = 0; first < size; first += kernels::kFloats)
      pieces.push_back({i, first, std::min(kernels::kFloats, size - first)});
  }
  return pieces;
}

float norm_of(const std::vector<Piece> &pieces, void **data) {
  std::vector<float> sums(pieces.size());
  kernels::Pool::instance().run(pieces.size(), [&](int64_t part) {
    const Piece &piece = pieces[part];
    const float *x = static_cast<const float *>(data[piece.tensor]) + piece.first;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < piece.count; ++i) sum += x[i] * x[i];
    sums[part] = sum;
  });
  float squares;
  kernels::add_parts(sums, 1, &squares);
  return std::sqrt(squares);
}

}  // namespace

// Tensors of any shapes -> their norm, (1,).
extern "C" int global_norm(int count, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  *static_cast<float *>(data[count - 1]) = norm_of(cut(count - 1, ranks, shapes), data);
  return 0;
}

// Largest norm (1,); tensors of any shapes -> their norm (1,); the tensors, scaled to at most the largest norm.
extern "C" int clip(int count, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const int tensors = (count - 2) / 2;
  void **inputs = data + 1, **outputs = data + tensors + 2;
  const std::vector<Piece> pieces = cut(tensors, ranks + 1, shapes + 1);
  const float largest = *static_cast<float *>(data[0]), norm = norm_of(pieces, inputs);
  *static_cast<float *>(data[tensors + 1]) = norm;
  const float scale = largest / std::max(norm, largest);
  kernels::Pool::instance().run(pieces.size(), [&](int64_t part) {
    const Piece &piece = pieces[part];
    const float *x = static_cast<const float *>(inputs[piece.tensor]) + piece.first;
    float *y = static_cast<float *>(outputs[piece.tensor]) + piece.first;
#pragma omp simd
    for (int64_t i = 0; i < piece.count; ++i) y[i] = x[i] * scale;
  });
  return 0;
}
