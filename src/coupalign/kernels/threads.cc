// Sets the number of threads that share the work of a kernel, including the calling one.
#include "threads.h"

extern "C" void set_threads(int threads) { kernels::Pool::instance().resize(threads); }
