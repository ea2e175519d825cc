#include "files.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <system_error>

#include "error.h"

namespace fs = std::filesystem;

namespace coupalign {

std::string read_file(const fs::path& path, const std::string& what) {
  std::error_code code;
  if (!fs::is_regular_file(path, code)) throw Error("no " + what + " " + path.string() + ": check its path");
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) throw Error(what + " " + path.string() + " cannot be read: check its permissions");
  return content;
}

void write_file(const fs::path& path, const void* data, std::size_t size) {
  const fs::path temporary = path.parent_path() / ("." + path.filename().string() + ".part");
  std::error_code code;
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
    file.close();
    if (!file) {
      fs::remove(temporary, code);
      throw Error(path.string() + " cannot be written: check the permissions of its directory and the free space");
    }
  }
  fs::rename(temporary, path, code);
  if (!code) return;
  const std::string reason = code.message();
  fs::remove(temporary, code);
  throw Error(path.string() + " cannot be written (" + reason + ")");
}

std::vector<std::string> file_names(const fs::path& directory) {
  std::error_code code;
  std::vector<std::string> names;
  for (fs::directory_iterator entry(directory, code), end; !code && entry != end; entry.increment(code)) {
    if (entry->is_regular_file(code)) names.push_back(entry->path().filename().string());
  }
  if (code) throw Error(directory.string() + " cannot be listed (" + code.message() + "): check its path");
  std::sort(names.begin(), names.end());
  return names;
}

void make_directory(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (!fs::is_directory(path, code)) throw Error(path.string() + " cannot be created as a directory: choose another path");
}

}  // namespace coupalign
