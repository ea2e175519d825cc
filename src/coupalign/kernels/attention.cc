// Multi-head attention, head by head in a core's cache, and its gradient: of a batch, and inside windows.
#include <cmath>

#include "matrix.h"
#include "threads.h"

namespace {

using kernels::Arguments;
using kernels::Left;
using kernels::Matrix;
using kernels::padded;
using kernels::Scratch;

constexpr int64_t kItems = 16;  // of a part; sums over items follow from it, whatever the threads

// Where queries, keys or values stand: heads side by side in rows of `stride` floats, a bias still to be added or null.
struct Side {
  const float *data, *bias;
  int64_t stride;
};

// What attention is over: `items` (images and their windows, or expressions), in each n queries of m keys.
struct Attention {
  int64_t items, heads, width, n, m;  // width: of a head
  Side sides[3];                      // queries, keys, values
  const float *table;                 // added to the scores of each item, (heads, n, m), or null
  const float *pairs, *keys;          // added to those of items in turn, (count, n, m) or (count, m), or null
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

  // What every item adds to a head's scores, with padding that softmax makes 0.
  Matrix added(int64_t head, Scratch *scratch) const {
    const Matrix result = scratch->matrix(n, m);
    for (int64_t i = 0; i < n; ++i) {
      std::fill_n(result.row(i), m, 0.0f);
      if (table) std::copy_n(table + (head * n + i) * m, m, result.row(i));
      std::fill_n(result.row(i) + m, result.stride - m, -INFINITY);
    }
    return result;
  }

  // One side of a head in an item.
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

  // The weights of a head in an item, (n, m).
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

  // What both directions begin with: the sides of an item, and the weights. across is overwritten.
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

// From dout, the gradient of attend's output, those of the sides, which stand as the sides do; and where wanted of their
// biases, (3, dim), and of the table.
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
      for (int64_t i = 0; i < n; ++i) {  // through the softmax: from the gradient of weights to that of scores
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

// (windows n, 3 dim) product of a linear layer; its bias, (3 dim,); what is added to all windows' scores, (heads, n, n);
// and to those of an image's windows in turn, (count, n, n), or (1,) for nothing.
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

// (B, L, dim) queries; (B, S, dim) keys; values of the same shape; what is added to the scores of a key, (B or 1, 1, S),
// or (1,) for nothing; and anything of shape (heads,).
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

// -> (windows n, dim)
extern "C" int window_attention(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  return attend(in_windows(arguments), arguments.floats(4));
}

// And the gradient of the output -> gradients of the first three inputs.
extern "C" int window_attention_gradient(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  const Attention of = in_windows(arguments);
  float *dproduct = arguments.floats(5), *const sides[] = {dproduct, dproduct + of.dim(), dproduct + 2 * of.dim()};
  return attend_gradient(of, arguments.floats(4), sides, arguments.floats(6), arguments.floats(7));
}

// -> (B, L, dim)
extern "C" int attention(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  return attend(in_batch(arguments), arguments.floats(5));
}

// And the gradient of the output -> gradients of the first three inputs.
extern "C" int attention_gradient(int, void **data, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Arguments arguments{data, ranks, shapes};
  float *const sides[] = {arguments.floats(6), arguments.floats(7), arguments.floats(8)};
  return attend_gradient(in_batch(arguments), arguments.floats(5), sides, nullptr, nullptr);
}
