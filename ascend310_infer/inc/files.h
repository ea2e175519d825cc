#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace coupalign {

/// The contents of a file. Throws Error, which calls the file `what`, if it cannot be read.
std::string read_file(const std::filesystem::path& path, const std::string& what);

/// Writes a file completely or not at all. Throws Error.
void write_file(const std::filesystem::path& path, const void* data, std::size_t size);

/// Sorted names of the regular files of a directory. Throws Error if there is no directory.
std::vector<std::string> file_names(const std::filesystem::path& directory);

/// Makes a directory and its parents. Throws Error.
void make_directory(const std::filesystem::path& path);

}  // namespace coupalign
