#pragma once

#include <cstddef>
#include <string>

namespace coupalign {

/// The headers of an image file, as far as decoders do not agree on them.
struct ImageFile {
  int orientation = 1;        // EXIF's numbers 1 to 8; applies to the pixels that OpenCV decodes
  std::size_t end = 0;        // of the image within the file; phones append videos
  bool has_end_marker = true;

  /// Reads the headers of a JPEG, PNG, WebP, TIFF or BMP file. The orientation is that of EXIF, or of XMP if EXIF has none.
  /// Throws Error, whose text continues the file's name, for other formats, and for pixel types that OpenCV would convert
  /// to other colours than training did.
  static ImageFile read(const std::string& content);
};

}  // namespace coupalign
