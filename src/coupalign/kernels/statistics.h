// Statistics of a row for layer normalisation.
#pragma once

#include <cmath>
#include <cstdint>

namespace kernels {

struct Statistics {
  float mean, scale;  // scale: 1 / standard deviation
};

inline Statistics statistics(const float *x, int64_t n, float epsilon) {
  float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += x[j];
  const float mean = sum / n;
#pragma omp simd reduction(+ : squares)
  for (int64_t j = 0; j < n; ++j) squares += (x[j] - mean) * (x[j] - mean);
  return {mean, 1.0f / std::sqrt(squares / n + epsilon)};
}

// Means over a row for the gradient of each element.
struct NormSums {
  float gradient, product;
};

// Also adds the row's part to the gradients of gamma and beta. dy: gradient of the normalised x.
inline NormSums norm_sums(const float *x, const float *gamma, const float *dy, Statistics of, int64_t n, float *to_gamma,
                          float *to_beta) {
  float sum = 0.0f, product = 0.0f;
#pragma omp simd reduction(+ : sum, product)
  for (int64_t j = 0; j < n; ++j) {
    const float normed = (x[j] - of.mean) * of.scale, weighted = dy[j] * gamma[j];
    sum += weighted;
    product += weighted * normed;
    to_gamma[j] += dy[j] * normed;
    to_beta[j] += dy[j];
  }
  return {sum / n, product / n};
}

// Gradient of an element of x.
inline float norm_slope(float x, float gamma, float dy, Statistics of, NormSums means) {
  const float normed = (x - of.mean) * of.scale;
  return of.scale * (dy * gamma - means.gradient - normed * means.product);
}

}  // namespace kernels
