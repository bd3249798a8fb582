// A file on a disk that is full until the test makes room.
#ifndef FERRITE_TESTS_FAKES_FULL_FILE_H_
#define FERRITE_TESTS_FAKES_FULL_FILE_H_

#include <sys/resource.h>

#include <cstdint>
#include <string>

#include "base/fd.h"

namespace ferrite {

// The limit of file sizes (RLIMIT_FSIZE) stands for the disk: write(2) goes up to it and then fails (EFBIG), for the
// whole process, but the file is so large that nobody else's comes there.
class FullFile {
 public:
  // Makes the file `path`, which can be appended `room` bytes.
  FullFile(const std::string& path, uint64_t room);
  ~FullFile() { MakeRoom(); }
  FullFile(const FullFile&) = delete;
  FullFile& operator=(const FullFile&) = delete;

  void MakeRoom();
  // What was appended.
  std::string Appended() const;

 private:
  uint64_t start_;
  rlimit before_;
  Fd fd_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FULL_FILE_H_
