// What is in a file.
#ifndef FERRITE_TESTS_FAKES_FILE_CONTENT_H_
#define FERRITE_TESTS_FAKES_FILE_CONTENT_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/fd.h"

namespace ferrite {

// All of it; of a disk image that somebody writes to, as it is at each moment.
inline std::string FileContent(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string content(std::filesystem::file_size(path), '?');
  EXPECT_EQ(pread(fd.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size())) << path;
  return content;
}

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FILE_CONTENT_H_
