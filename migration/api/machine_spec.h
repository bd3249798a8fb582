// What a source tells of its machine before a byte of it moves.
#ifndef FERRITE_MIGRATION_API_MACHINE_SPEC_H_
#define FERRITE_MIGRATION_API_MACHINE_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

namespace ferrite::migration {

enum class RegionKind : uint16_t {
  kRam = 0,
  kDisk = 1,
};

struct MachineSpec {
  struct Region {
    RegionKind kind = RegionKind::kRam;
    std::string name;
    uint64_t base = 0;  // guest-physical
    uint64_t bytes = 0;
    uint64_t page_bytes = 0;  // of the source's host

    bool operator==(const Region&) const = default;
  };

  std::vector<Region> regions;  // page frames number them in this order
  // All else is the affair of who built the machine: the engine carries it, and does not read it.
  std::string kind;      // "ferrite": who can read `machine`
  uint32_t version = 0;  // of `machine`
  std::vector<uint8_t> machine;

  bool operator==(const MachineSpec&) const = default;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_MACHINE_SPEC_H_
