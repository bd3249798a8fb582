// What RDMA channels need of a verbs provider: registered memory, queue pairs that are connected by the connection
// manager, work requests and their completions. Follows ibv_reg_mr(3), ibv_post_send(3), ibv_poll_cq(3), rdma_cm(7).
// LoadIbverbs() has the real one (ibverbs.h); tests have a fabric of their own (tests/fakes/rdma_fabric.h), which may
// delay, reorder between queue pairs and fail at any step.
//
// What all providers have, RoCE, InfiniBand and iWARP: reliable connected queue pairs, RDMA WRITE and READ, SEND. No
// immediate data and no atomics. That a WRITE has completed says that its memory may be changed, not that it has
// arrived: that says a SEND behind it on the same queue pair. Nothing here orders one WRITE behind another.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_VERBS_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_VERBS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"

namespace ferrite::migration {

// What may be done to memory from outside, besides what its own side does: that may send from it, write from it, and
// where it is kLocal read into it.
enum class MemoryAccess {
  kLocal,        // nothing; the target of READs of this side
  kRemoteWrite,  // IBV_ACCESS_REMOTE_WRITE (and LOCAL_WRITE, which that needs)
  kRemoteRead,   // IBV_ACCESS_REMOTE_READ; LOCAL_WRITE, too, or a page of zeros would be pinned that the guest leaves
};

// Memory that is pinned and known to the device: ibv_reg_mr(3). Deregistered when it is destroyed, which is waited for:
// from then on nothing that comes from outside reaches it. What was allocated for it stays. The memory outlives it.
// Threads: any.
class RegisteredMemory {
 public:
  virtual ~RegisteredMemory() = default;
  virtual std::span<uint8_t> bytes() const = 0;
  virtual uint32_t local_key() const = 0;
  virtual uint32_t remote_key() const = 0;
};

// A piece of memory of this side, in `memory`.
struct LocalPiece {
  const RegisteredMemory* memory = nullptr;
  std::span<uint8_t> bytes;
};

// Memory of the other side, as that has told.
struct RemotePiece {
  uint64_t address = 0;
  uint32_t key = 0;
};

enum class WorkKind : uint8_t { kWrite, kRead, kSend, kReceive };

// A work request that is over, and how. Behind an error the queue pair is broken, and all that follows is, too.
struct Completion {
  uint64_t id = 0;  // that it was posted with
  WorkKind kind = WorkKind::kWrite;
  absl::Status status;  // UNAVAILABLE, with the name of the ibv_wc_status
  uint32_t bytes = 0;   // of a kReceive
};

// A connected one. Its completions, of all kinds, come to one queue.
//
// Threads: one posts, polls and arms; Break() and broken() from any.
class QueuePair {
 public:
  virtual ~QueuePair() = default;

  // How many WRITEs, READs and SENDs may be under way at once, and how many receives may be posted: until their
  // completions were taken.
  static constexpr size_t kMostWork = 128;
  static constexpr size_t kMostReceives = 16;

  // Each is UNAVAILABLE when the queue pair is broken. The memory stays registered until the completion has been seen,
  // or the queue pair is destroyed. More than kMostWork: RESOURCE_EXHAUSTED, and nothing was posted.
  virtual absl::Status PostWrite(uint64_t id, const LocalPiece& from, const RemotePiece& to) = 0;
  virtual absl::Status PostRead(uint64_t id, const LocalPiece& into, const RemotePiece& from) = 0;
  virtual absl::Status PostSend(uint64_t id, const LocalPiece& message) = 0;
  virtual absl::Status PostReceive(uint64_t id, const LocalPiece& into) = 0;

  // What is over by now, into the front of `into`: how many. Never waits. Of a broken one all that was under way comes,
  // and then no more: that is no error, broken() says it.
  virtual absl::StatusOr<size_t> TakeCompletions(std::span<Completion> into) = 0;
  // Readable when, since the last Arm(), something has been completed, or the queue pair has broken; Arm() takes that
  // back and has it be so again. What was completed before Arm() is to be looked for behind it. A broken one stays
  // readable.
  virtual int fd() const = 0;
  virtual absl::Status Arm() = 0;

  // To the error state (ibv_modify_qp(3)): nothing that comes from the other side is done any more when it returns, and
  // what is under way completes with an error. The other side is not told: what it posts completes with an error, after
  // its retries. That one is destroyed tells the other side, which breaks. Also what the events of the connection
  // manager do (DISCONNECTED, DEVICE_REMOVAL), on a thread of the provider's.
  virtual void Break() = 0;
  virtual bool broken() const = 0;
};

// How a queue pair watches over its other end: what is not acknowledged in `ack_timeout` goes again `retries` times
// (0 to 7), and then the queue pair breaks.
struct QueuePairTerms {
  bool remote_write = false;  // the other side may write to kRemoteWrite memory over it
  bool remote_read = false;
  absl::Duration ack_timeout = absl::Milliseconds(268);
  int retries = 3;
};

// What the other side said with its connection, of at most kMostGreeting bytes.
inline constexpr size_t kMostGreeting = 48;

// Waits for queue pairs from elsewhere. Threads: one at a time.
class QueuePairListener {
 public:
  virtual ~QueuePairListener() = default;
  virtual uint16_t port() const = 0;
  // The next queue pair whose greeting is `greeting`: others that come are kept for who asks for them, at most 64 and
  // for 10 s each. It is connected and ready; receives are to be posted by the time the other side sends (RNR retries
  // go on for ever). DEADLINE_EXCEEDED, CANCELLED as soon as `cancel` is signalled.
  virtual absl::StatusOr<std::unique_ptr<QueuePair>> Accept(absl::string_view greeting, const QueuePairTerms& terms,
                                                            MonotonicTime deadline, const EventFd& cancel) = 0;
};

// What a host says of its devices, for people and for `ferrite doctor`.
struct VerbsDevice {
  std::string name;                // rxe0
  std::string transport;           // InfiniBand, RoCE, iWARP
  std::string port_state;          // active
  uint64_t most_registration = 0;  // bytes of one registration
  uint32_t most_registrations = 0;
  uint32_t most_queue_pairs = 0;
  bool on_demand_paging = false;
  std::vector<std::string> net_devices;
};

// One device, as an address leads to it, and one protection domain: what is registered serves all queue pairs.
// Threads: any.
class VerbsDomain {
 public:
  virtual ~VerbsDomain() = default;
  // Pins all of it, and allocates what is not there. RESOURCE_EXHAUSTED for want of memory, of registrations, or for a
  // limit (RLIMIT_MEMLOCK), with which of these; FAILED_PRECONDITION for memory that cannot be registered.
  virtual absl::StatusOr<std::unique_ptr<RegisteredMemory>> Register(std::span<uint8_t> memory,
                                                                     MemoryAccess access) = 0;
  virtual absl::StatusOr<std::unique_ptr<QueuePairListener>> Listen() = 0;
  // To `port` of the address that the domain was made for, from the source's side.
  virtual absl::StatusOr<std::unique_ptr<QueuePair>> Connect(uint16_t port, absl::string_view greeting,
                                                             const QueuePairTerms& terms, MonotonicTime deadline,
                                                             const EventFd& cancel) = 0;
  virtual uint64_t most_registration() const = 0;
};

// Threads: any.
class Verbs {
 public:
  virtual ~Verbs() = default;
  // The domain of the device over which `host` (a numeric address) is reached, or, with `here`, the device that has
  // it. UNAVAILABLE when none does.
  enum class End { kHere, kThere };
  virtual absl::StatusOr<std::shared_ptr<VerbsDomain>> Open(absl::string_view host, End end, MonotonicTime deadline,
                                                            const EventFd& cancel) = 0;
  virtual absl::StatusOr<std::vector<VerbsDevice>> Devices() = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_VERBS_H_
