#pragma once

#include <stdexcept>

namespace coupalign {

/// A mistake of the user. `what()` is one line: what is wrong, where, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace coupalign
