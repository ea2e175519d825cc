// Multi-head attention and its gradient, for a batch of sequences and for windows. Each head is computed in the cache of a core.
#include <cmath>

#include "matrix.h"
#include "threads.h"

namespace {

using kernels::Arguments;
using kernels::Left;
using kernels::Matrix;
using kernels::padded;
using kernels::Scratch;

constexpr int64_t kItems = 16;  // in a part. It does not depend on the number of threads, so neither do sums over items

// Queries, keys or values: heads side by side in rows of `stride` floats; a bias to be added, or null.
struct Side {
  const float *data, *bias;
  int64_t stride;
};

// Attention over `items` (windows of images, or expressions), each with n queries and m keys.
struct Attention {
  int64_t items, heads, width, n, m;  // width: of a head
  Side sides[3];                      // queries, keys, values
  const float *table;                 // bias of the scores of every item, (heads, n, m), or null
  const float *pairs, *keys;          // biases of item i % count, (count, n, m) or (count, m), or null
  int64_t count;

  int64_t dim() const { return heads * width; }
  int64_t rows(int side) const { return side == 0 ? n : m; }
  float factor(int side) const { return side == 0 ? 1.0f / std::sqrt(static_cast<float>(width)) : 1.0f; }
  int64_t chunks() const { return (items + kItems - 1) / kItems; }

  // work(head, chunk, first item, item after the last), for each head and chunk of items.
  template <typename Work>
  void each(const Work &work) const {
    kernels::Pool::instance().run(heads * chunks(), [&](int64_t part) {
      const int64_t chunk = part / heads;
      work(part % heads, chunk, chunk * kItems, std::min(items, (chunk + 1) * kItems));
    });
  }

  // Bias of a head's scores that all items share. Softmax makes its padding 0.
  Matrix added(int64_t head, Scratch *scratch) const {
    const Matrix result = scratch->matrix(n, m);
    for (int64_t i = 0; i < n; ++i) {
      std::fill_n(result.row(i), m, 0.0f);
      if (table) std::copy_n(table + (head * n + i) * m, m, result.row(i));
      std::fill_n(result.row(i) + m, result.stride - m, -INFINITY);
    }
    return result;
  }

  // Copies one side of a head of an item, with bias and scale.
  void gather(int side, int64_t head, int64_t item, Matrix to) const {
    const Side &of = sides[side];
    const float *from = of.data + item * rows(side) * of.stride + head * width, by = factor(side);
    for (int64_t i = 0; i < rows(side); ++i, from += of.stride) {
      float *row = to.row(i);
      if (of.bias) {
        const float *bias = of.bias + head * width;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) row[c] = (from[c] + bias[c]) * by;
      } else {
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) row[c] = from[c] * by;
      }
    }
  }

  // Computes the attention weights of a head of an item, (n, m).
  void weigh(int64_t item, Matrix query, Matrix keys_across, Matrix added, float *of_rows, Matrix weights) const {
    multiply(n, width, padded(m), query, keys_across, weights);
    for (int64_t i = 0; i < n; ++i) {
      float *row = weights.row(i);
#pragma omp simd
      for (int64_t j = 0; j < weights.stride; ++j) row[j] += added.row(i)[j];
      const float *here = pairs ? pairs + (item % count * n + i) * m : keys ? keys + item % count * m : nullptr;
      if (here) {
#pragma omp simd
        for (int64_t j = 0; j < m; ++j) row[j] += here[j];
      }
    }
    softmax(n, weights, of_rows);
  }

  // First step of forward and backward pass: the sides and the weights of an item. Overwrites `across`.
  void begin(int64_t head, int64_t item, const Matrix &query, const Matrix &keys, const Matrix &values,
             const Matrix &across, const Matrix &added, float *of_rows, const Matrix &weights) const {
    gather(0, head, item, query);
    gather(1, head, item, keys);
    gather(2, head, item, values);
    transpose(m, width, keys, across);
    weigh(item, query, across, added, of_rows, weights);
  }
};

// out: (items n, dim).
int attend(const Attention &of, float *out) {
  const int64_t n = of.n, m = of.m, width = of.width;
  of.each([&](int64_t head, int64_t, int64_t first, int64_t last) {
    Scratch scratch;
    const Matrix query = scratch.matrix(n, width), keys = scratch.matrix(m, width), values = scratch.matrix(m, width),
                 across = scratch.matrix(width, m), weights = scratch.matrix(n, m), result = scratch.matrix(n, width),
                 added = of.added(head, &scratch);
    float *of_rows = scratch.matrix(1, n).data;
    for (int64_t item = first; item < last; ++item) {
      of.begin(head, item, query, keys, values, across, added, of_rows, weights);
      multiply(n, m, padded(width), weights, values, result);
      float *to = out + item * n * of.dim() + head * width;
      for (int64_t i = 0; i < n; ++i) std::copy_n(result.row(i), width, to + i * of.dim());
    }
  });
  return 0;
}

// From dout, the gradient of the output of attend: gradients of the sides, in the layout of the sides, and, unless null,
// of their biases, (3, dim), and of the table.
int attend_gradient(const Attention &of, const float *dout, float *const dsides[3], float *dbiases, float *dtable) {
  const int64_t n = of.n, m = of.m, width = of.width, dim = of.dim(), scores = of.heads * n * m;
  std::vector<float> biases(dbiases ? of.chunks() * 3 * dim : 0), tables(dtable ? of.chunks() * scores : 0);
  of.each([&](int64_t head, int64_t chunk, int64_t first, int64_t last) {
    Scratch scratch;
    const Matrix query = scratch.matrix(n, width), keys = scratch.matrix(m, width), values = scratch.matrix(m, width),
                 across = scratch.matrix(width, m), weights = scratch.matrix(n, m), dscores = scratch.matrix(n, m),
                 dresult = scratch.matrix(n, width), part = scratch.matrix(std::max(n, m), width),
                 added = of.added(head, &scratch);
    float *of_rows = scratch.matrix(1, n).data;
    for (int64_t item = first; item < last; ++item) {
      of.begin(head, item, query, keys, values, across, added, of_rows, weights);
      const float *from = dout + item * n * dim + head * width;
      for (int64_t i = 0; i < n; ++i) std::copy_n(from + i * dim, width, dresult.row(i));
      transpose(m, width, values, across);
      multiply(n, width, padded(m), dresult, across, dscores);
      for (int64_t i = 0; i < n; ++i) {  // gradient of the softmax: from weights to scores
        const float *weight = weights.row(i);
        float *row = dscores.row(i), sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < dscores.stride; ++j) sum += weight[j] * row[j];
#pragma omp simd
        for (int64_t j = 0; j < dscores.stride; ++j) row[j] = weight[j] * (row[j] - sum);
        if (dtable) {
          float *total = &tables[chunk * scores + (head * n + i) * m];
#pragma omp simd
          for (int64_t j = 0; j < m; ++j) total[j] += row[j];
        }
      }
      const auto give = [&](int side, Left left, int64_t depth, Matrix right) {
        multiply(of.rows(side), depth, padded(width), left, right, part);
        float *to = dsides[side] + item * of.rows(side) * of.sides[side].stride + head * width;
        const float by = of.factor(side);
        for (int64_t i = 0; i < of.rows(side); ++i, to += of.sides[side].stride) {
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) to[c] = part.row(i)[c] * by;
          if (dbiases) {
            float *total = &biases[chunk * 3 * dim + side * dim + head * width];
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) total[c] += to[c];
          }
        }
      };
      give(0, dscores, m, keys);
      give(1, Left::transposed(dscores), n, query);
      give(2, Left::transposed(weights), n, dresult);
    }
  });
  if (dbiases) kernels::add_parts(biases, 3 * dim, dbiases);
  if (dtable) kernels::add_parts(tables, scores, dtable);
  return 0;
}

// Inputs: output of a linear layer without its bias (windows n, 3 dim); the bias (3 dim,); bias of the scores of all
// windows (heads, n, n); biases of the windows of an image (count, n, n), or (1,) for none.
Attention in_windows(const Arguments &arguments) {
  const int64_t heads = arguments.shapes[2][0], n = arguments.shapes[2][1], dim = arguments.columns(1) / 3;
  const float *product = arguments.floats(0), *bias = arguments.floats(1);
  Attention of{arguments.rows(0) / n, heads, dim / heads, n, n, {}, arguments.floats(2), nullptr, nullptr, 1};
  for (int side = 0; side < 3; ++side) of.sides[side] = {product + side * dim, bias + side * dim, 3 * dim};
  if (arguments.ranks[3] == 3) {
    of.pairs = arguments.floats(3);
    of.count = arguments.shapes[3][0];
  }
  return of;
}

// Inputs: queries (B, L, dim); keys and values (B, S, dim); biases of the keys (B or 1, 1, S), or (1,) for none; any
// tensor of shape (heads,).
Attention in_batch(const Arguments &arguments) {
  const int64_t *query = arguments.shapes[0], dim = query[2], heads = arguments.shapes[4][0];
  Attention of{query[0], heads, dim / heads, query[1], arguments.shapes[1][1], {}, nullptr, nullptr, nullptr, 1};
  for (int side = 0; side < 3; ++side) of.sides[side] = {arguments.floats(side), nullptr, dim};
  if (arguments.ranks[3] == 3) {
    of.keys = arguments.floats(3);
    of.count = arguments.shapes[3][0];
  }
  return of;
}

}  // namespace

// Inputs of in_windows -> (windows n, dim).
extern "C" int window_attention(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  return attend(in_windows(arguments), arguments.floats(4));
}

// The same inputs and the gradient of the output -> gradients of the first three inputs.
extern "C" int window_attention_gradient(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const Attention of = in_windows(arguments);
  float *dproduct = arguments.floats(5), *const sides[] = {dproduct, dproduct + of.dim(), dproduct + 2 * of.dim()};
  return attend_gradient(of, arguments.floats(4), sides, arguments.floats(6), arguments.floats(7));
}

// Inputs of in_batch -> (B, L, dim).
extern "C" int attention(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  return attend(in_batch(arguments), arguments.floats(5));
}

// The same inputs and the gradient of the output -> gradients of the first three inputs.
extern "C" int attention_gradient(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  float *const sides[] = {arguments.floats(6), arguments.floats(7), arguments.floats(8)};
  return attend_gradient(in_batch(arguments), arguments.floats(5), sides, nullptr, nullptr);
}
