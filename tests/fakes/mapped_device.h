// A device of the kernel's device mapper, whose blocks a test can make fail and mend (dm-ioctl.h).
#ifndef FERRITE_TESTS_FAKES_MAPPED_DEVICE_H_
#define FERRITE_TESTS_FAKES_MAPPED_DEVICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

struct dm_ioctl;

namespace ferrite {

// For root, with the module dm-mod and those of the targets. Removed with its owner, when nobody has it open.
class MappedDevice {
 public:
  // A part of it, by the target's words (Documentation/admin-guide/device-mapper): "linear /dev/ram0 0", "error".
  struct Part {
    uint64_t sectors = 0;
    std::string target;  // its kind
    std::string words;
  };

  static absl::StatusOr<MappedDevice> Create(const std::string& name, const std::vector<Part>& parts);
  MappedDevice(MappedDevice&&) = default;
  MappedDevice& operator=(MappedDevice&&) = delete;
  ~MappedDevice();

  // Another table from here on, also for who has it open. What is cached of it stays.
  absl::Status Load(const std::vector<Part>& parts);
  const std::string& path() const { return path_; }

 private:
  MappedDevice(std::string name, Fd control) : name_(std::move(name)), control_(std::move(control)) {}
  absl::Status Call(unsigned long request, uint32_t flags, std::vector<char>& buffer) const;

  std::string name_;
  Fd control_;
  std::string path_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_MAPPED_DEVICE_H_
