// Layer normalisation over the last axis, and its gradient.
#include <vector>

#include "statistics.h"
#include "threads.h"

namespace {

using kernels::Arguments;
using kernels::Statistics;

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
      const Statistics of = kernels::statistics(x + i, n, epsilon);
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) y[i + j] = (x[i + j] - of.mean) * of.scale * gamma[j] + beta[j];
    }
  });
  return 0;
}

// (…, n) x; (n,) gamma; (1,) epsilon; (…, n) gradient of the output -> gradients of x, gamma and beta.
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
      const Statistics of = kernels::statistics(x + i, n, epsilon);
      const auto sums = kernels::norm_sums(x + i, gamma, dy + i, of, n, to_gamma, to_beta);
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) dx[i + j] = kernels::norm_slope(x[i + j], gamma[j], dy[i + j], of, sums);
    }
  });
  kernels::add_parts(gammas, n, dgamma);
  kernels::add_parts(betas, n, dbeta);
  return 0;
}
