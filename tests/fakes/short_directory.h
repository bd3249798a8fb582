// A directory for a test.
#ifndef FERRITE_TESTS_FAKES_SHORT_DIRECTORY_H_
#define FERRITE_TESTS_FAKES_SHORT_DIRECTORY_H_

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "base/status.h"

namespace ferrite {

// A directory under /tmp (a socket's path has room for 108 bytes), removed with its owner.
class ShortDirectory {
 public:
  ShortDirectory() { FERRITE_CHECK(mkdtemp(path_.data()) != nullptr); }
  ~ShortDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ShortDirectory(const ShortDirectory&) = delete;
  ShortDirectory& operator=(const ShortDirectory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/ferrite-test-XXXXXX";
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_SHORT_DIRECTORY_H_
