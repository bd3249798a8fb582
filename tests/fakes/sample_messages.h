// One control message of each kind: for tests of what holds for all of them.
#ifndef FERRITE_TESTS_FAKES_SAMPLE_MESSAGES_H_
#define FERRITE_TESTS_FAKES_SAMPLE_MESSAGES_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "migration/protocol/control_frame.h"
#include "migration/protocol/messages.h"

namespace ferrite::migration {

inline constexpr MoveId kSampleMoveId = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

// A key, a nonce or a digest.
inline std::array<uint8_t, 32> SampleBytes(uint8_t first) {
  std::array<uint8_t, 32> bytes;
  std::iota(bytes.begin(), bytes.end(), first);
  return bytes;
}

// One of each in the order of Message, with something in every field.
inline std::vector<Message> SampleMessages() {
  return {
      message::Hello{.move_id = kSampleMoveId,
                     .versions = {.lowest = 1, .newest = 3},
                     .features = 0x0123456789abcdef,
                     .page_channels = 4,
                     .urgent_channels = 2,
                     .key = SampleBytes(0x10),
                     .nonce = SampleBytes(0x30)},
      message::Welcome{.version = 2, .features = 5, .key = SampleBytes(0x50), .nonce = SampleBytes(0x70)},
      message::Machine{.spec = {.regions = {{.name = "low", .base = 0, .bytes = 1 << 20, .page_bytes = 4096},
                                            {.name = "high", .base = 1 << 30, .bytes = 2 << 20, .page_bytes = 2 << 20}},
                                .kind = "ferrite",
                                .version = 7,
                                .machine = {6, 5, 4, 3, 2, 1}},
                       .digest = SampleBytes(0x90)},
      message::Accept{.host_page_bytes = {4096, 2 << 20},
                      .postcopy = true,
                      .postcopy_reason = "because",
                      .digest = SampleBytes(0xa0)},
      message::Refuse{.reason = "no"},
      message::Advise{},
      message::Ready{.load = absl::Microseconds(7)},
      message::Round{.number = 9, .last = true},
      message::Discard{.ranges = {{.region = 1, .first = 2, .count = 3}, {.region = 4, .first = 5, .count = 6}},
                       .last = true},
      message::Discarded{},
      message::Package{.version = 1, .blob = {1, 2, 3, 4, 5}, .postcopy = true},
      message::Loaded{.load = absl::Nanoseconds(1)},
      message::Grant{.move_id = kSampleMoveId, .epoch = 8},
      message::Running{.epoch = 8},
      message::End{},
      message::Shut{.ok = true,
                    .message = "all is here",
                    .figures = {.faults = 1,
                                .minor_faults = 2,
                                .duplicate_pages = 3,
                                .waiting = {{.vcpu = 1,
                                             .count = 2,
                                             .p50 = absl::Nanoseconds(3),
                                             .p99 = absl::Nanoseconds(4),
                                             .max = absl::Nanoseconds(5),
                                             .sum = absl::Nanoseconds(6)}},
                                .host_wait = absl::Nanoseconds(7),
                                .entry_wait = absl::Nanoseconds(8)}},
      message::Ping{.token = 1},
      message::Pong{.token = 2},
      message::Error{.message = "this went wrong"},
      message::Cancel{.message = "never mind"},
      message::Heard{},
      message::Recover{.move_id = kSampleMoveId, .epoch = 3, .page_channels = 4, .urgent_channels = 5},
      message::Standing{.granted = true, .digest = SampleBytes(0xb0)},
      message::Revoke{},
      message::Revoked{},
      message::Missing{.ranges = {{.region = 0, .first = 1, .count = 2}}, .last = true},
      message::Opened{.digest = SampleBytes(0xc0)},
      message::Broken{.channel = 6, .missing = {{.region = 7, .first = 8, .count = 9}}, .last = true},
  };
}

// What is behind the header of a whole frame.
inline std::vector<uint64_t> PayloadOf(const std::vector<uint8_t>& frame) {
  std::vector<uint64_t> payload((frame.size() - kControlHeaderBytes) / sizeof(uint64_t));
  std::memcpy(payload.data(), frame.data() + kControlHeaderBytes, payload.size() * sizeof(uint64_t));
  return payload;
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_SAMPLE_MESSAGES_H_
