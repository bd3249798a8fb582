#include "devices/bus/bus.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite {
namespace {

// A guest that probes looks at a few dozen addresses; one that wants to fill the log gets no further than this.
constexpr size_t kMaxLoggedAddresses = 64;

}  // namespace

Bus::Bus(std::string name) : name_(std::move(name)) {}

absl::Status Bus::Add(absl::string_view device_name, uint64_t base, uint64_t bytes, IoDevice* device) {
  FERRITE_CHECK(device != nullptr);
  const std::string what = absl::StrCat(name_, " bus: ", device_name, " at 0x", absl::Hex(base), ", ", bytes, " bytes");
  // The last byte may be the last of the address space.
  if (bytes == 0 || base + (bytes - 1) < base) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": empty, or wraps around the end of the address space"));
  }
  const auto next = windows_.lower_bound(base);
  if (next != windows_.end() && next->first - base < bytes) {
    return absl::AlreadyExistsError(
        absl::StrCat(what, ": overlaps ", next->second.name, " at 0x", absl::Hex(next->first)));
  }
  if (next != windows_.begin()) {
    const auto before = std::prev(next);
    if (base - before->first < before->second.bytes) {
      return absl::AlreadyExistsError(
          absl::StrCat(what, ": overlaps ", before->second.name, " at 0x", absl::Hex(before->first)));
    }
  }
  windows_.emplace(base, Window{std::string(device_name), bytes, device});
  return absl::OkStatus();
}

Bus::Place Bus::FindDevice(uint64_t address, uint64_t bytes) const {
  auto window = windows_.upper_bound(address);
  if (window == windows_.begin()) {
    return {nullptr, 0};
  }
  --window;
  const uint64_t offset = address - window->first;
  if (offset >= window->second.bytes || bytes > window->second.bytes - offset) {
    return {nullptr, 0};
  }
  return {window->second.device, offset};
}

void Bus::Read(uint64_t address, std::span<uint8_t> data) {
  const Place place = FindDevice(address, data.size());
  if (place.device == nullptr) {
    std::fill(data.begin(), data.end(), uint8_t{0xff});
    LogUnclaimed("read", address, data.size());
    return;
  }
  place.device->Read(place.offset, data);
}

void Bus::Write(uint64_t address, std::span<const uint8_t> data) {
  const Place place = FindDevice(address, data.size());
  if (place.device == nullptr) {
    LogUnclaimed("write", address, data.size());
    return;
  }
  place.device->Write(place.offset, data);
}

void Bus::LogUnclaimed(absl::string_view verb, uint64_t address, uint64_t bytes) {
  IfThereIsMemory([&] {
    {
      absl::MutexLock lock(&logged_mutex_);
      if (logged_.size() >= kMaxLoggedAddresses || !logged_.insert(address).second) {
        return;
      }
    }
    Log().info("{} bus: {} of {} bytes at {:#x}, where no device is; said once for this address", name_,
               fmt::string_view(verb.data(), verb.size()), bytes, address);
  });
}

}  // namespace ferrite
