// gelu(x + b), for the output x and the bias b of a linear layer, and its gradient.
#include <cmath>
#include <vector>

#include "math.h"
#include "threads.h"

namespace {

using kernels::Arguments;
using kernels::exp_negative;

// Phi(x), the standard normal distribution function, from e^(-x^2/2) and x. The tail is e^(-x^2/2) times a minimax
// polynomial of t = 1 / (1 + .35 |x|), whose largest error is 8e-9, far below rounding.
inline float distribution(float x, float bell) {
  const float t = 1.0f / (1.0f + 0.35f * std::fabs(x));
  float p = 0.0341925942f;
  p = p * t - 0.136190597f;
  p = p * t + 0.119106604f;
  p = p * t + 0.101319538f;
  p = p * t + 0.0916381779f;
  p = p * t + 0.151973008f;
  p = p * t + 0.137960683f;
  const float tail = p * t * bell;
  return x < 0.0f ? tail : 1.0f - tail;
}

}  // namespace

// (…, n) x; (n,) b -> (…, n).
extern "C" int gelu(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const int64_t n = arguments.columns(0);
  const float *x = arguments.floats(0), *bias = arguments.floats(1);
  float *y = arguments.floats(2);
  kernels::over_rows(arguments.rows(0), n, [=](int64_t, int64_t first, int64_t last) {
    for (int64_t i = first * n; i < last * n; i += n) {
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        const float v = x[i + j] + bias[j];
        y[i + j] = v * distribution(v, exp_negative(-0.5f * v * v));
      }
    }
  });
  return 0;
}

// (…, n) x; (n,) b; (…, n) gradient of the output -> gradients of x and b.
extern "C" int gelu_gradient(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const int64_t rows = arguments.rows(0), n = arguments.columns(0);
  const float *x = arguments.floats(0), *bias = arguments.floats(1), *dy = arguments.floats(2);
  float *dx = arguments.floats(3), *dbias = arguments.floats(4);
  std::vector<float> sums(kernels::parts_of(rows, n) * n);
  kernels::over_rows(rows, n, [=, &sums](int64_t part, int64_t first, int64_t last) {
    float *sum = &sums[part * n];
    for (int64_t i = first * n; i < last * n; i += n) {
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        const float v = x[i + j] + bias[j], bell = exp_negative(-0.5f * v * v);
        const float d = dy[i + j] * (distribution(v, bell) + v * bell * 0.398942280f);
        dx[i + j] = d;
        sum[j] += d;
      }
    }
  });
  kernels::add_parts(sums, n, dbias);
  return 0;
}
