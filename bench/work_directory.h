// A directory for the sockets and files of what a benchmark starts, removed with its owner.
#ifndef FERRITE_BENCH_WORK_DIRECTORY_H_
#define FERRITE_BENCH_WORK_DIRECTORY_H_

#include <stdlib.h>

#include <filesystem>
#include <string>
#include <system_error>

namespace ferrite {

class WorkDirectory {
 public:
  WorkDirectory() {
    if (mkdtemp(path_.data()) == nullptr) {
      path_.clear();  // whoever makes a file in it says so
    }
  }
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;
  ~WorkDirectory() {
    std::error_code error;
    if (!path_.empty()) {
      std::filesystem::remove_all(path_, error);
    }
  }
  const std::string& path() const { return path_; }

 private:
  // Memory, as /run is on most hosts: the record of a hand-over is synced while the guest stands still. Short: a
  // socket's path has 107 bytes.
  std::string path_ = "/dev/shm/ferrite-bench-XXXXXX";
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_WORK_DIRECTORY_H_
