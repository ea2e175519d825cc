#pragma once

#include <stdexcept>

namespace coupalign {

/// What a user can mend. `what()` is one line: what is wrong, where, and the mend.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace coupalign
