#include "image_file.h"

#include <cstdint>
#include <optional>
#include <string_view>

#include "error.h"

namespace coupalign {
namespace {

using Bytes = std::string_view;

bool starts_with(Bytes bytes, Bytes prefix) { return bytes.substr(0, prefix.size()) == prefix; }

/// An unsigned number of `size` bytes at `at`. Throws Error beyond the end.
std::uint32_t number(Bytes bytes, std::size_t at, int size, bool little) {
  if (at > bytes.size() || bytes.size() - at < static_cast<std::size_t>(size)) throw Error("is damaged");
  std::uint32_t value = 0;
  for (int i = 0; i < size; ++i) {
    const int shift = 8 * (little ? i : size - 1 - i);
    value |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at + i])) << shift;
  }
  return value;
}

/// The first value of a tag in the first directory of a TIFF structure, which EXIF data also are.
std::optional<std::uint32_t> tiff_tag(Bytes tiff, std::uint32_t tag) {
  if (!starts_with(tiff, "II") && !starts_with(tiff, "MM")) return std::nullopt;
  const bool little = tiff[0] == 'I';
  const std::size_t directory = number(tiff, 4, 4, little);
  const std::uint32_t entries = number(tiff, directory, 2, little);
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * static_cast<std::size_t>(i);
    if (number(tiff, entry, 2, little) != tag) continue;
    const std::uint32_t type = number(tiff, entry + 2, 2, little);
    const int size = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0;
    if (size == 0) return std::nullopt;
    const bool inside = size * static_cast<std::uint64_t>(number(tiff, entry + 4, 4, little)) <= 4;
    return number(tiff, inside ? entry + 8 : number(tiff, entry + 8, 4, little), size, little);
  }
  return std::nullopt;
}

/// Collects the metadata that state an orientation.
class Orientation {
 public:
  void add_exif(Bytes exif) {
    while (starts_with(exif, Bytes("Exif\0\0", 6))) exif.remove_prefix(6);
    if (!exif_) exif_ = tiff_tag(exif, 0x0112);
  }

  void add_xmp(Bytes xmp) {
    constexpr Bytes kName = "tiff:Orientation";
    for (auto at = xmp.find(kName); at != Bytes::npos; at = xmp.find(kName, at + 1)) {
      Bytes rest = xmp.substr(at + kName.size());
      const std::size_t skip = starts_with(rest, "=\"") ? 2 : starts_with(rest, ">") ? 1 : 0;
      if (skip == 0 || rest.size() <= skip || rest[skip] < '0' || rest[skip] > '9') continue;
      xmp_ = static_cast<std::uint32_t>(rest[skip] - '0');
      return;
    }
  }

  int value() const {
    const std::uint32_t found = exif_ ? *exif_ : xmp_.value_or(1);
    return found >= 1 && found <= 8 ? static_cast<int>(found) : 1;
  }

  bool has_exif() const { return exif_.has_value(); }

 private:
  std::optional<std::uint32_t> exif_, xmp_;
};

ImageFile read_jpeg(Bytes content) {
  constexpr Bytes kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  Orientation orientation;
  ImageFile file;
  std::size_t at = 2;
  while (at + 1 < content.size()) {
    const auto byte = static_cast<unsigned char>(content[at]);
    const auto marker = static_cast<unsigned char>(content[at + 1]);
    // Between segments are the compressed data, in which 0xFF is followed by 0 or by a restart marker.
    if (byte != 0xFF || marker == 0xFF || marker < 0xC0 || (marker >= 0xD0 && marker <= 0xD8)) {
      ++at;
      continue;
    }
    if (marker == 0xD9) {
      file.orientation = orientation.value();
      file.end = at + 2;
      return file;
    }
    const std::size_t length = number(content, at + 2, 2, false);
    const Bytes segment = content.substr(at + 4, length < 2 ? 0 : length - 2);
    const bool frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (frame && number(segment, 5, 1, false) != 1 && number(segment, 5, 1, false) != 3) {
      throw Error("is a JPEG in CMYK: convert it to RGB");
    }
    if (marker == 0xE1 && starts_with(segment, Bytes("Exif\0\0", 6))) orientation.add_exif(segment);
    if (marker == 0xE1 && starts_with(segment, kXmp)) orientation.add_xmp(segment);
    at += 2 + length;
  }
  file.orientation = orientation.value();
  file.end = content.size();
  file.has_end_marker = false;
  return file;
}

ImageFile read_png(Bytes content) {
  Orientation orientation;
  bool unreadable = false;
  for (std::size_t at = 8; at + 12 <= content.size();) {
    const std::size_t length = number(content, at, 4, false);
    const Bytes type = content.substr(at + 4, 4), data = content.substr(at + 8, length);
    at += 12 + length;
    if (type == "eXIf") orientation.add_exif(data);
    if (type == "iTXt" && starts_with(data, Bytes("XML:com.adobe.xmp\0", 18))) {
      unreadable |= number(data, 18, 1, false) != 0;
      orientation.add_xmp(data);
    }
    unreadable |= (type == "tEXt" || type == "zTXt") && starts_with(data, Bytes("Raw profile type exif\0", 22));
    if (type == "IEND" && at <= content.size()) {
      if (unreadable && !orientation.has_exif()) {
        throw Error("stores its orientation in a text chunk, which this program cannot read: save it as JPEG");
      }
      ImageFile file;
      file.orientation = orientation.value();
      file.end = at;
      return file;
    }
  }
  throw Error("ends early, and some of its pixels are missing: copy or download it again");
}

ImageFile read_webp(Bytes content) {
  Orientation orientation;
  for (std::size_t at = 12; at + 8 <= content.size();) {
    const std::size_t length = number(content, at + 4, 4, true);
    const Bytes type = content.substr(at, 4), data = content.substr(at + 8, length);
    if (type == "EXIF") orientation.add_exif(data);
    if (type == "XMP ") orientation.add_xmp(data);
    at += 8 + length + length % 2;
  }
  ImageFile file;
  file.orientation = orientation.value();
  file.end = content.size();
  return file;
}

ImageFile read_tiff(Bytes content) {
  const std::uint32_t photometric = tiff_tag(content, 262).value_or(1);
  const std::uint32_t samples = tiff_tag(content, 277).value_or(1);
  if ((samples != 1 && samples != 3) || tiff_tag(content, 258).value_or(1) > 16 ||
      tiff_tag(content, 339).value_or(1) != 1 || photometric == 5 || photometric > 6) {
    throw Error("has a pixel type that this program cannot read: convert it to RGB or grey, 8 or 16 bits per channel");
  }
  ImageFile file;  // OpenCV turns TIFFs itself, whatever it is told
  file.end = content.size();
  return file;
}

}  // namespace

ImageFile ImageFile::read(const std::string& content) {
  const Bytes bytes = content;
  if (starts_with(bytes, "\xFF\xD8\xFF")) return read_jpeg(bytes);
  if (starts_with(bytes, "\x89PNG\r\n\x1A\n")) return read_png(bytes);
  if (starts_with(bytes, "RIFF") && bytes.substr(8, 4) == "WEBP") return read_webp(bytes);
  if (starts_with(bytes, Bytes("II*\0", 4)) || starts_with(bytes, Bytes("MM\0*", 4))) return read_tiff(bytes);
  if (!starts_with(bytes, "BM")) throw Error("is not an image of a known format: use JPEG, PNG, WebP, TIFF or BMP");
  ImageFile file;
  file.end = content.size();
  return file;
}

}  // namespace coupalign
