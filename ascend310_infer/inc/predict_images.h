#pragma once

#include <functional>
#include <memory>

#include "description.h"
#include "options.h"
#include "runtime.h"

namespace coupalign {

/// Evaluates every expression on every image, in batches of the model's size, writes a mask and an overlay of each pair
/// and prints a line of JSON. `load` loads the model once the first batch is ready.
///
/// Images that cannot be read are reported and skipped; returns whether there was none. Throws Error for everything
/// else.
bool predict_images(const Options& options, const std::function<std::unique_ptr<Runtime>(const Description&)>& load);

}  // namespace coupalign
