// The source of a move that speaks version 2 of the wire, and nothing else. Its guest does not run.
#ifndef FERRITE_TESTS_COMPAT_VERSION2_GIVER_H_
#define FERRITE_TESTS_COMPAT_VERSION2_GIVER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tests/compat/version2_guest.h"
#include "tests/compat/version2_line.h"

namespace ferrite::version2 {

// Whether memory goes in rounds, behind the switchover, or some of it so and some so.
enum class Way { kPrecopy, kPostcopy, kBoth };

struct GiveOptions {
  Way way = Way::kPrecopy;
  uint64_t features = kAllFeatures;  // that it offers
  uint16_t page_channels = 1;
  const Tls* tls = nullptr;
};
// What was seen.
struct GiveFigures {
  uint64_t features = 0;  // that both have
  uint64_t requests = 0;  // pages that were asked for, and had not gone
  uint64_t faults = 0;    // as SHUT says
};
// Gives `guest` to the destination at `address`: it runs there when this returns without an error.
absl::StatusOr<GiveFigures> Give(const Guest& guest, const std::string& address, const GiveOptions& options);

}  // namespace ferrite::version2

#endif  // FERRITE_TESTS_COMPAT_VERSION2_GIVER_H_
