// Products, transposes and softmax of small matrices that fit into the cache of a core. They use the vector extension of
// GCC, which any processor supports: eight floats are one AVX register, or two of SSE or NEON.
#pragma once

#include <vector>

#include "math.h"

namespace kernels {

constexpr int64_t kWide = 8;
typedef float Vector __attribute__((vector_size(32)));
typedef int32_t Integers __attribute__((vector_size(32)));

inline int64_t padded(int64_t n) { return (n + kWide - 1) / kWide * kWide; }

inline Vector load(const float *from) {
  Vector result;
  std::memcpy(&result, from, sizeof result);
  return result;
}

inline void store(Vector vector, float *to) { std::memcpy(to, &vector, sizeof vector); }

// Row-major floats, padded to whole vectors in both directions; `stride` is the distance between rows.
struct Matrix {
  float *data;
  int64_t stride;

  float *row(int64_t i) const { return data + i * stride; }
};

// Memory for matrices, initially zero, so that padding adds nothing to sums.
class Scratch {
 public:
  Matrix matrix(int64_t rows, int64_t columns) {
    memory_.emplace_back(padded(rows) * padded(columns));
    return {memory_.back().data(), padded(columns)};
  }

 private:
  std::vector<std::vector<float>> memory_;
};

// The left matrix of a product; element (i, k) is data[i * row + k * column].
struct Left {
  const float *data;
  int64_t row, column;

  Left(Matrix a) : data(a.data), row(a.stride), column(1) {}
  static Left transposed(Matrix a) {
    Left result(a);
    std::swap(result.row, result.column);
    return result;
  }
};

// R rows and V vectors of a product. The sums stay in registers.
template <int R, int V>
inline void tile(int64_t depth, const float *a, int64_t row, int64_t column, const float *b, int64_t b_stride, float *c,
                 int64_t c_stride) {
  Vector sums[R][V] = {};
  for (int64_t k = 0; k < depth; ++k) {
    for (int v = 0; v < V; ++v) {
      const Vector right = load(b + k * b_stride + v * kWide);
      for (int r = 0; r < R; ++r) sums[r][v] += a[r * row + k * column] * right;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(sums[r][v], c + r * c_stride + v * kWide);
}

template <int V>
inline void strip(int64_t rows, int64_t depth, Left a, const float *b, int64_t b_stride, float *c, int64_t c_stride) {
  for (int64_t i = 0; i < rows; i += 4)
    tile<4, V>(depth, a.data + i * a.row, a.row, a.column, b, b_stride, c + i * c_stride, c_stride);
}

// c = a b for `rows` of c, rounded up to a multiple of four, and `columns`, a multiple of the vector width.
inline void multiply(int64_t rows, int64_t depth, int64_t columns, Left a, Matrix b, Matrix c) {
  for (int64_t j = 0; j < columns;) {
    const int64_t left = columns - j;
    const int64_t now = left >= 24 && left != 32 ? 24 : left >= 16 ? 16 : 8;  // for 32 columns, 16 + 16 is faster than 24 + 8
    (now == 24 ? strip<3> : now == 16 ? strip<2> : strip<1>)(rows, depth, a, b.data + j, b.stride, c.data + j, c.stride);
    j += now;
  }
}

// Swaps the off-diagonal blocks of each 2 Half x 2 Half square.
template <int Half>
inline void swap_blocks(Vector *rows) {
  Integers low, high;
  for (int j = 0; j < kWide; ++j) {
    low[j] = j & Half ? kWide + j - Half : j;
    high[j] = j & Half ? kWide + j : j + Half;
  }
  for (int i = 0; i < kWide; ++i) {
    if (i & Half) continue;
    const Vector above = rows[i], below = rows[i + Half];
    rows[i] = __builtin_shuffle(above, below, low);
    rows[i + Half] = __builtin_shuffle(above, below, high);
  }
}

// to = from^T, for `rows` and `columns` of from.
inline void transpose(int64_t rows, int64_t columns, Matrix from, Matrix to) {
  for (int64_t i = 0; i < rows; i += kWide) {
    for (int64_t j = 0; j < columns; j += kWide) {
      Vector block[kWide];
      for (int k = 0; k < kWide; ++k) block[k] = load(from.row(i + k) + j);
      swap_blocks<1>(block);
      swap_blocks<2>(block);
      swap_blocks<4>(block);
      for (int k = 0; k < kWide; ++k) store(block[k], to.row(j + k) + i);
    }
  }
}

inline float sum(Vector v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

inline float largest(Vector v) {
  float result = v[0];
  for (int k = 1; k < kWide; ++k) result = v[k] > result ? v[k] : result;
  return result;
}

// In-place softmax of each row, padding included. Each pass runs over all rows, since the steps of one row depend on each
// other.
inline void softmax(int64_t rows, Matrix scores, float *of_rows) {
  for (int64_t i = 0; i < rows; ++i) {
    Vector most = load(scores.row(i));
    for (int64_t j = kWide; j < scores.stride; j += kWide) {
      const Vector next = load(scores.row(i) + j);
      most = next > most ? next : most;
    }
    of_rows[i] = largest(most);
  }
  for (int64_t i = 0; i < rows; ++i) {
    Vector total = {};
    for (int64_t j = 0; j < scores.stride; j += kWide) {
      const Vector weight = exp_negative<Vector, Integers>(load(scores.row(i) + j) - of_rows[i]);
      store(weight, scores.row(i) + j);
      total += weight;
    }
    of_rows[i] = 1.0f / sum(total);
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < scores.stride; j += kWide) store(load(scores.row(i) + j) * of_rows[i], scores.row(i) + j);
}

}  // namespace kernels
