// How many threads share the work of a kernel, this one included.
#include "threads.h"

extern "C" void set_threads(int threads) { kernels::Pool::instance().resize(threads); }
