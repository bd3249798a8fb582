// The control messages of a move as plain structs, and as bytes (docs/wire_format.md, "The course of a move").
//
// The decoder holds the bounds of a message alone: what it returns may still be a lie, or come at the wrong time.
#ifndef FERRITE_MIGRATION_PROTOCOL_MESSAGES_H_
#define FERRITE_MIGRATION_PROTOCOL_MESSAGES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "memory/page_range.h"
#include "migration/api/machine_spec.h"
#include "migration/api/move_id.h"
#include "migration/api/move_report.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/version.h"
#include "migration/secret/proof_bytes.h"

namespace ferrite::migration {

// Ranges in one DISCARD, MISSING or BROKEN.
inline constexpr size_t kMaxRanges = 4096;
// Memory regions of a machine.
inline constexpr size_t kMaxRegions = 64;
// Threads whose waiting a destination may report; more are left out.
inline constexpr size_t kMaxWaits = 256;
// The format of a package's blob.
inline constexpr uint32_t kPackageVersion = 1;

// "→" is from the source to the destination, "←" the return path. What a digest is over:
// migration/secret/move_secret.h.
namespace message {

// →
struct Hello {
  static constexpr absl::string_view kName = "HELLO";
  MoveId move_id{};       // as in every connection's preamble
  VersionRange versions;  // that the source speaks
  uint64_t features = 0;  // bits of Features
  uint16_t page_channels = 0;
  uint16_t urgent_channels = 0;
  PublicKey key{};  // the source's, for this connection
  Nonce nonce{};    // likewise
  bool operator==(const Hello&) const = default;
};

// ←
struct Welcome {
  static constexpr absl::string_view kName = "WELCOME";
  uint16_t version = 0;   // the chosen one
  uint64_t features = 0;  // that both sides have
  PublicKey key{};        // the destination's, for this connection
  Nonce nonce{};          // likewise
  bool operator==(const Welcome&) const = default;
};

// →
struct Machine {
  static constexpr absl::string_view kName = "MACHINE";
  MachineSpec spec;
  Digest digest{};  // Claim::kMachine
  bool operator==(const Machine&) const = default;
};

// ←
struct Accept {
  static constexpr absl::string_view kName = "ACCEPT";
  std::vector<uint64_t> host_page_bytes;  // of each region, at the destination; 0: it is declined
  bool postcopy = false;                  // it can serve faults
  std::string postcopy_reason;            // when not: why, and the remedy
  Digest digest{};                        // Claim::kAccept
  bool operator==(const Accept&) const = default;
};

// ← The move ends, the guest runs on at the source.
struct Refuse {
  static constexpr absl::string_view kName = "REFUSE";
  std::string reason;
  bool operator==(const Refuse&) const = default;
};

// →
struct Advise {
  static constexpr absl::string_view kName = "ADVISE";
  bool operator==(const Advise&) const = default;
};

// ←
struct Ready {
  static constexpr absl::string_view kName = "READY";
  absl::Duration load;  // what loading a state took when it was tried
  bool operator==(const Ready&) const = default;
};

// → When a round ends; the same number closes the round on every page channel.
struct Round {
  static constexpr absl::string_view kName = "ROUND";
  uint32_t number = 0;
  bool last = false;  // the guest is stopped: PACKAGE follows
  bool operator==(const Round&) const = default;
};

// →
struct Discard {
  static constexpr absl::string_view kName = "DISCARD";
  std::vector<PageRange> ranges;
  bool last = false;  // DISCARDED is to answer
  bool operator==(const Discard&) const = default;
};

// ← All DISCARDs up to the one with `last` are done.
struct Discarded {
  static constexpr absl::string_view kName = "DISCARDED";
  bool operator==(const Discarded&) const = default;
};

// → The state of the machine, whole: its length and checksum were right.
struct Package {
  static constexpr absl::string_view kName = "PACKAGE";
  uint32_t version = 0;  // of the blob's format
  std::vector<uint8_t> blob;
  bool postcopy = false;  // pages are missing: faults are to be served before it is loaded
  bool operator==(const Package&) const = default;
};

// ←
struct Loaded {
  static constexpr absl::string_view kName = "LOADED";
  absl::Duration load;
  bool operator==(const Loaded&) const = default;
};

// →
struct Grant {
  static constexpr absl::string_view kName = "GRANT";
  MoveId move_id{};
  uint64_t epoch = 0;
  bool operator==(const Grant&) const = default;
};

// ←
struct Running {
  static constexpr absl::string_view kName = "RUNNING";
  uint64_t epoch = 0;  // of the GRANT that it answers
  bool operator==(const Running&) const = default;
};

// →
struct End {
  static constexpr absl::string_view kName = "END";
  bool operator==(const End&) const = default;
};

// What only the destination can measure.
struct DestinationFigures {
  uint64_t faults = 0;        // that went to the source
  uint64_t minor_faults = 0;  // on pages that had arrived
  uint64_t duplicate_pages = 0;
  std::vector<WaitingFigures> waiting;
  absl::Duration host_wait;   // MoveReport::destination_wait
  absl::Duration entry_wait;  // likewise
  bool operator==(const DestinationFigures&) const = default;
};

// ←
struct Shut {
  static constexpr absl::string_view kName = "SHUT";
  bool ok = false;
  std::string message;  // when not
  DestinationFigures figures;
  bool operator==(const Shut&) const = default;
};

// ↔
struct Ping {
  static constexpr absl::string_view kName = "PING";
  uint64_t token = 0;
  bool operator==(const Ping&) const = default;
};

// ↔
struct Pong {
  static constexpr absl::string_view kName = "PONG";
  uint64_t token = 0;
  bool operator==(const Pong&) const = default;
};

// ↔ The sender's own words; the move fails.
struct Error {
  static constexpr absl::string_view kName = "ERROR";
  std::string message;
  bool operator==(const Error&) const = default;
};

// → Before GRANT only.
struct Cancel {
  static constexpr absl::string_view kName = "CANCEL";
  std::string message;
  bool operator==(const Cancel&) const = default;
};

// → SHUT arrived.
struct Heard {
  static constexpr absl::string_view kName = "HEARD";
  bool operator==(const Heard&) const = default;
};

// → In place of HELLO, after a lost connection.
struct Recover {
  static constexpr absl::string_view kName = "RECOVER";
  MoveId move_id{};
  uint64_t epoch = 0;  // of the GRANT that was written down
  uint16_t page_channels = 0;
  uint16_t urgent_channels = 0;
  bool operator==(const Recover&) const = default;
};

// ←
struct Standing {
  static constexpr absl::string_view kName = "STANDING";
  bool granted = false;  // GRANT arrived: the guest is the destination's
  Digest digest{};       // Claim::kGranted, or kStanding when it did not
  bool operator==(const Standing&) const = default;
};

// → GRANT never arrived, and shall not: the source takes the guest back.
struct Revoke {
  static constexpr absl::string_view kName = "REVOKE";
  bool operator==(const Revoke&) const = default;
};

// ←
struct Revoked {
  static constexpr absl::string_view kName = "REVOKED";
  bool operator==(const Revoked&) const = default;
};

// ←
struct Missing {
  static constexpr absl::string_view kName = "MISSING";
  std::vector<PageRange> ranges;
  bool last = false;
  bool operator==(const Missing&) const = default;
};

// ← All page and urgent channels are here.
struct Opened {
  static constexpr absl::string_view kName = "OPENED";
  Digest digest{};  // Claim::kOpened
  bool operator==(const Opened&) const = default;
};

// ↔ Behind GRANT a page channel has ended, and the others go on. From the destination, always, and when nothing comes
// over it any more: with what is not here, in as many messages as it takes. From the source of no ranges, with `last`,
// where it is the first to notice.
struct Broken {
  static constexpr absl::string_view kName = "BROKEN";
  uint16_t channel = 0;
  std::vector<PageRange> missing;
  bool last = false;
  bool operator==(const Broken&) const = default;
};

}  // namespace message

using Message =
    std::variant<message::Hello, message::Welcome, message::Machine, message::Accept, message::Refuse, message::Advise,
                 message::Ready, message::Round, message::Discard, message::Discarded, message::Package,
                 message::Loaded, message::Grant, message::Running, message::End, message::Shut, message::Ping,
                 message::Pong, message::Error, message::Cancel, message::Heard, message::Recover, message::Standing,
                 message::Revoke, message::Revoked, message::Missing, message::Opened, message::Broken>;

// "HELLO"
absl::string_view MessageName(const Message& message);

// A whole frame, header and payload. A lack of memory is an exception, as of everything that makes a vector.
std::vector<uint8_t> Encode(const Message& message);

// What a payload holds whose checksum is right (CheckControlPayload()). INVALID_ARGUMENT for a message that is not
// known, whose pointers lead nowhere, in which there is more of something than may be, or a region that cannot be;
// DATA_LOSS for a damaged package; RESOURCE_EXHAUSTED for a lack of memory here, which no exception tells. Nothing
// outside of the payload is ever read, and the work is bounded.
absl::StatusOr<Message> Decode(std::span<const uint64_t> payload);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_MESSAGES_H_
