// Layer normalisation over the last axis, and its gradient.
#include <cmath>
#include <vector>

#include "threads.h"

namespace {

using kernels::Arguments;

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

}  // namespace

// (…, n) x; (n,) gamma; (n,) beta; (1,) epsilon -> (…, n).
extern "C" int norm(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const int64_t n = arguments.columns(0);
  const float *x = arguments.floats(0), *gamma = arguments.floats(1), *beta = arguments.floats(2);
  const float epsilon = *arguments.floats(3);
  float *y = arguments.floats(4);
  kernels::over_rows(arguments.rows(0), n, [=](int64_t, int64_t first, int64_t last) {
    for (int64_t i = first * n; i < last * n; i += n) {
      const Statistics of = statistics(x + i, n, epsilon);
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) y[i + j] = (x[i + j] - of.mean) * of.scale * gamma[j] + beta[j];
    }
  });
  return 0;
}

// (…, n) x; (n,) gamma; (1,) epsilon; (…, n) gradient of the output -> those of x, gamma and beta.
extern "C" int norm_gradient(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const int64_t rows = arguments.rows(0), n = arguments.columns(0);
  const float *x = arguments.floats(0), *gamma = arguments.floats(1), *dy = arguments.floats(3);
  const float epsilon = *arguments.floats(2);
  float *dx = arguments.floats(4), *dgamma = arguments.floats(5), *dbeta = arguments.floats(6);
  const int64_t parts = kernels::parts_of(rows, n);
  std::vector<float> gammas(parts * n), betas(parts * n);
  kernels::over_rows(rows, n, [=, &gammas, &betas](int64_t part, int64_t first, int64_t last) {
    float *to_gamma = &gammas[part * n], *to_beta = &betas[part * n];
    for (int64_t i = first * n; i < last * n; i += n) {
      const Statistics of = statistics(x + i, n, epsilon);
      float sum = 0.0f, product = 0.0f;
#pragma omp simd reduction(+ : sum, product)
      for (int64_t j = 0; j < n; ++j) {
        const float normed = (x[i + j] - of.mean) * of.scale, weighted = dy[i + j] * gamma[j];
        sum += weighted;
        product += weighted * normed;
        to_gamma[j] += dy[i + j] * normed;
        to_beta[j] += dy[i + j];
      }
      sum /= n;
      product /= n;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        const float normed = (x[i + j] - of.mean) * of.scale;
        dx[i + j] = of.scale * (dy[i + j] * gamma[j] - sum - normed * product);
      }
    }
  });
  kernels::add_parts(gammas, n, dgamma);
  kernels::add_parts(betas, n, dbeta);
  return 0;
}
