// End of a residual block: y = x + scale (a + bias), where a is the output of a linear layer without its bias, and the
// layer normalisation of y if one follows. One pass over memory instead of three or four.
#include <vector>

#include "statistics.h"
#include "threads.h"

namespace {

using kernels::Arguments;
using kernels::Statistics;

// Scale of the sample of a row: scales (B,), or (1,) for all, of B * length rows.
struct Scales {
  const float *values;
  int64_t length;

  float of(int64_t row) const { return values[row / length]; }
};

inline Scales scales(const Arguments &arguments, int input, int64_t rows) {
  const int64_t count = arguments.columns(input);
  return {arguments.floats(input), rows / count};
}

inline void add_row(const float *x, const float *a, const float *bias, float scale, int64_t n, float *y) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) y[j] = x[j] + scale * (a[j] + bias[j]);
}

}  // namespace

// (…, n) x; (…, n) a; (n,) bias; (B,) or (1,) scale -> y = x + scale (a + bias).
extern "C" int residual(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const int64_t rows = arguments.rows(0), n = arguments.columns(0);
  const float *x = arguments.floats(0), *a = arguments.floats(1), *bias = arguments.floats(2);
  const Scales scale = scales(arguments, 3, rows);
  float *y = arguments.floats(4);
  kernels::over_rows(rows, n, [=](int64_t, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) add_row(x + row * n, a + row * n, bias, scale.of(row), n, y + row * n);
  });
  return 0;
}

// (…, n) gradient of y; (B,) or (1,) scale -> (n,) gradient of the bias.
extern "C" int residual_bias_gradient(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const int64_t rows = arguments.rows(0), n = arguments.columns(0);
  const float *dy = arguments.floats(0);
  const Scales scale = scales(arguments, 1, rows);
  std::vector<float> sums(kernels::parts_of(rows, n) * n);
  kernels::over_rows(rows, n, [=, &sums](int64_t part, int64_t first, int64_t last) {
    float *sum = &sums[part * n];
    for (int64_t row = first; row < last; ++row) {
      const float by = scale.of(row), *of = dy + row * n;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) sum[j] += by * of[j];
    }
  });
  kernels::add_parts(sums, n, arguments.floats(2));
  return 0;
}

// Inputs of residual, then (n,) gamma; (n,) beta; (1,) epsilon -> y; (…, n) normalised y.
extern "C" int residual_norm(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const int64_t rows = arguments.rows(0), n = arguments.columns(0);
  const float *x = arguments.floats(0), *a = arguments.floats(1), *bias = arguments.floats(2);
  const Scales scale = scales(arguments, 3, rows);
  const float *gamma = arguments.floats(4), *beta = arguments.floats(5), epsilon = *arguments.floats(6);
  float *y = arguments.floats(7), *normed = arguments.floats(8);
  kernels::over_rows(rows, n, [=](int64_t, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t i = row * n;
      add_row(x + i, a + i, bias, scale.of(row), n, y + i);
      const Statistics of = kernels::statistics(y + i, n, epsilon);
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) normed[i + j] = (y[i + j] - of.mean) * of.scale * gamma[j] + beta[j];
    }
  });
  return 0;
}

// (…, n) y; (n,) gamma; (1,) epsilon; (B,) or (1,) scale; gradients of y and of the normalised y
// -> gradients of x, gamma, beta and the bias. The gradient of a is scale times that of x.
extern "C" int residual_norm_gradient(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const int64_t rows = arguments.rows(0), n = arguments.columns(0);
  const float *y = arguments.floats(0), *gamma = arguments.floats(1), epsilon = *arguments.floats(2);
  const Scales scale = scales(arguments, 3, rows);
  const float *dy = arguments.floats(4), *dnormed = arguments.floats(5);
  float *dx = arguments.floats(6);
  const int64_t parts = kernels::parts_of(rows, n);
  std::vector<float> gammas(parts * n), betas(parts * n), biases(parts * n);
  kernels::over_rows(rows, n, [=, &gammas, &betas, &biases](int64_t part, int64_t first, int64_t last) {
    float *to_gamma = &gammas[part * n], *to_beta = &betas[part * n], *to_bias = &biases[part * n];
    for (int64_t row = first; row < last; ++row) {
      const int64_t i = row * n;
      const float by = scale.of(row);
      const Statistics of = kernels::statistics(y + i, n, epsilon);
      const auto sums = kernels::norm_sums(y + i, gamma, dnormed + i, of, n, to_gamma, to_beta);
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        dx[i + j] = dy[i + j] + kernels::norm_slope(y[i + j], gamma[j], dnormed[i + j], of, sums);
        to_bias[j] += by * dx[i + j];
      }
    }
  });
  kernels::add_parts(gammas, n, arguments.floats(7));
  kernels::add_parts(betas, n, arguments.floats(8));
  kernels::add_parts(biases, n, arguments.floats(9));
  return 0;
}
