// The address → device map, for memory-mapped and for port I/O.
#ifndef FERRITE_DEVICES_BUS_BUS_H_
#define FERRITE_DEVICES_BUS_BUS_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "devices/bus/device.h"

namespace ferrite {

// One address space of registers. Devices are added before the machine runs; then any thread may Read and Write.
//
// What no device answers reads as all ones, a write to it is dropped; either is logged once for each address (up to a
// limit, since the guest chooses the addresses).
class Bus {
 public:
  // `name` is for messages: "mmio", "pio".
  explicit Bus(std::string name);

  // Places `device` (not owned, outlives the bus) at [base, base + bytes). Fails when that overlaps another, or wraps.
  absl::Status Add(absl::string_view device_name, uint64_t base, uint64_t bytes, IoDevice* device);

  // An access that reaches past its device's end goes to nobody.
  void Read(uint64_t address, std::span<uint8_t> data);
  void Write(uint64_t address, std::span<const uint8_t> data);

 private:
  struct Window {
    std::string name;
    uint64_t bytes;
    IoDevice* device;
  };
  struct Place {
    IoDevice* device;
    uint64_t offset;
  };

  Place FindDevice(uint64_t address, uint64_t bytes) const;
  void LogUnclaimed(absl::string_view verb, uint64_t address, uint64_t bytes);

  const std::string name_;
  std::map<uint64_t, Window> windows_;  // by base
  absl::Mutex logged_mutex_;
  absl::flat_hash_set<uint64_t> logged_ ABSL_GUARDED_BY(logged_mutex_);
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BUS_BUS_H_
