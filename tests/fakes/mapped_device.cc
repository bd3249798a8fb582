#include "tests/fakes/mapped_device.h"

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

std::vector<char> EmptyCall() { return std::vector<char>(sizeof(dm_ioctl)); }

// One table: each part is a dm_target_spec with its words behind it, padded to 8 bytes.
std::vector<char> TableOf(const std::vector<MappedDevice::Part>& parts) {
  std::vector<char> buffer = EmptyCall();
  uint64_t start = 0;
  for (const MappedDevice::Part& part : parts) {
    dm_target_spec spec = {.sector_start = start, .length = part.sectors};
    std::strncpy(spec.target_type, part.target.c_str(), sizeof(spec.target_type) - 1);
    spec.next = static_cast<uint32_t>(sizeof(spec) + (part.words.size() + 8) / 8 * 8);
    const size_t at = buffer.size();
    buffer.resize(at + spec.next);
    std::memcpy(&buffer[at], &spec, sizeof(spec));
    std::memcpy(&buffer[at + sizeof(spec)], part.words.c_str(), part.words.size());
    start += part.sectors;
  }
  auto* head = reinterpret_cast<dm_ioctl*>(buffer.data());
  head->target_count = static_cast<uint32_t>(parts.size());
  return buffer;
}

}  // namespace

absl::Status MappedDevice::Call(unsigned long request, uint32_t flags, std::vector<char>& buffer) const {
  auto* head = reinterpret_cast<dm_ioctl*>(buffer.data());
  head->version[0] = 4;
  head->data_size = static_cast<uint32_t>(buffer.size());
  head->data_start = sizeof(dm_ioctl);
  head->flags = flags;
  std::strncpy(head->name, name_.c_str(), sizeof(head->name) - 1);
  return ioctl(control_.get(), request, buffer.data()) == 0
             ? absl::OkStatus()
             : ErrnoStatus(absl::StrCat("device mapper, call ", _IOC_NR(request), " of ", name_));
}

absl::StatusOr<MappedDevice> MappedDevice::Create(const std::string& name, const std::vector<Part>& parts) {
  Fd control(open("/dev/mapper/control", O_RDWR | O_CLOEXEC));
  if (!control.valid()) {
    return ErrnoStatus("open /dev/mapper/control");
  }
  MappedDevice device(name, std::move(control));
  std::vector<char> call = EmptyCall();
  FERRITE_RETURN_IF_ERROR(device.Call(DM_DEV_CREATE, 0, call));
  device.path_ = absl::StrCat("/dev/dm-", minor(reinterpret_cast<const dm_ioctl*>(call.data())->dev));
  FERRITE_RETURN_IF_ERROR(device.Load(parts));
  return device;
}

MappedDevice::~MappedDevice() {
  if (control_.valid()) {
    std::vector<char> call = EmptyCall();
    (void)Call(DM_DEV_REMOVE, 0, call);
  }
}

absl::Status MappedDevice::Load(const std::vector<Part>& parts) {
  std::vector<char> table = TableOf(parts);
  FERRITE_RETURN_IF_ERROR(Call(DM_TABLE_LOAD, 0, table));
  std::vector<char> call = EmptyCall();
  // A file system on it is not asked to be still: it could not write what has to be written first.
  FERRITE_RETURN_IF_ERROR(Call(DM_DEV_SUSPEND, DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG, call));
  call = EmptyCall();
  return Call(DM_DEV_SUSPEND, 0, call);
}

}  // namespace ferrite
