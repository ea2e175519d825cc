// Thread pool of the kernels, and access to their arguments.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kernels {

// Arguments of a Custom operator of MindSpore: inputs, then outputs.
struct Arguments {
  void **data;
  int *ranks;
  int64_t **shapes;

  float *floats(int i) const { return static_cast<float *>(data[i]); }
  int64_t columns(int i) const { return shapes[i][ranks[i] - 1]; }
  int64_t rows(int i) const {
    int64_t product = 1;
    for (int axis = 0; axis + 1 < ranks[i]; ++axis) product *= shapes[i][axis];
    return product;
  }
};

// One thread per further core. Threads sleep between kernels and are never joined; the process may end while they sleep.
class Pool {
 public:
  static Pool &instance() {
    static Pool *pool = new Pool;
    return *pool;
  }

  void resize(int threads) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (; threads_ < threads; ++threads_) std::thread(&Pool::serve, this).detach();
  }

  // Calls work(part) for each part, in any order, on all threads; on the calling thread only, if the others are busy with
  // another kernel.
  void run(int64_t parts, const std::function<void(int64_t)> &work) {
    std::unique_lock<std::mutex> owner(busy_, std::defer_lock);
    if (parts == 1 || threads_ == 1 || !owner.try_lock()) {
      for (int64_t part = 0; part < parts; ++part) work(part);
      return;
    }
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = &work;
    next_ = 0;
    parts_ = unfinished_ = parts;
    wake_.notify_all();
    help(&lock);
    finished_.wait(lock, [this] { return unfinished_ == 0; });
  }

 private:
  void help(std::unique_lock<std::mutex> *lock) {
    while (next_ < parts_) {
      const int64_t part = next_++;
      const auto *work = work_;
      lock->unlock();
      (*work)(part);
      lock->lock();
      if (--unfinished_ == 0) finished_.notify_all();
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return next_ < parts_; });
      help(&lock);
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_, finished_;
  const std::function<void(int64_t)> *work_ = nullptr;
  int64_t next_ = 0, parts_ = 0, unfinished_ = 0;
  int threads_ = 1;
};

constexpr int64_t kFloats = 32768;  // in a part: about ten microseconds of work, and small enough for the cache of a core

// Rows of `columns` floats in a part. It does not depend on the number of threads, so neither do sums over parts.
inline int64_t rows_of_part(int64_t columns) { return std::max<int64_t>(1, kFloats / columns); }

inline int64_t parts_of(int64_t rows, int64_t columns) {
  const int64_t part = rows_of_part(columns);
  return (rows + part - 1) / part;
}

// Calls work(part, first row, row after the last) for all parts of `rows`.
template <typename Work>
void over_rows(int64_t rows, int64_t columns, const Work &work) {
  const int64_t each = rows_of_part(columns);
  Pool::instance().run(parts_of(rows, columns), [&](int64_t part) {
    work(part, part * each, std::min(rows, (part + 1) * each));
  });
}

// Adds the sums of n floats of all parts in double precision.
inline void add_parts(const std::vector<float> &sums, int64_t n, float *totals) {
  std::vector<double> exact(n);
  for (size_t i = 0; i < sums.size(); ++i) exact[i % n] += sums[i];
  std::copy(exact.begin(), exact.end(), totals);
}

}  // namespace kernels
