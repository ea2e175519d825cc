#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace coupalign {

/// The bytes of a file. Throws Error, which names the file as `what`, where it cannot be read.
std::string read_file(const std::filesystem::path& path, const std::string& what);

/// Writes a file that is either whole or not there. Throws Error.
void write_file(const std::filesystem::path& path, const void* data, std::size_t size);

/// Names of the regular files of a directory, sorted. Throws Error where there is no such directory or no file in it.
std::vector<std::string> file_names(const std::filesystem::path& directory);

/// Makes a directory and its parents, or throws Error.
void make_directory(const std::filesystem::path& path);

}  // namespace coupalign
