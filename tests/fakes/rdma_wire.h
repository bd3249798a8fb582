// What all queue pairs of an RdmaFabric share: memory that is registered, and what is on its way.
#ifndef FERRITE_TESTS_FAKES_RDMA_WIRE_H_
#define FERRITE_TESTS_FAKES_RDMA_WIRE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "base/timed_mutex.h"
#include "migration/channel/rdma/verbs.h"

namespace ferrite::migration {

// Threads: any.
class RdmaWire {
 public:
  using End = Verbs::End;

  enum class Call : uint8_t {
    kOpen,
    kRegister,
    kListen,
    kAccept,
    kConnect,
    kPostWrite,
    kPostRead,
    kPostSend,
    kPostReceive,
    kWrite,  // the work itself: it completes with an error
    kRead,
    kSend,
  };

  enum class Held : uint8_t {
    kWork,           // WRITEs, READs and SENDs that were posted
    kCompletions,    // of work that has been done
    kRegistrations,  // calls of Register(), which do not return
  };
  static constexpr size_t kAll = std::numeric_limits<size_t>::max();

  struct Counts {
    uint64_t writes = 0;
    uint64_t written_bytes = 0;
    uint64_t reads = 0;
    uint64_t read_bytes = 0;
    uint64_t sends = 0;
    uint64_t refused = 0;     // accesses to memory by a key that does not serve for them, or over a broken queue pair
    uint64_t late = 0;        // of these: WRITEs whose queue pair was broken or destroyed while they were held
    uint64_t lost_bytes = 0;  // written where a page is not there any more
  };

  // One of the two of a connection.
  struct Side {
    Side(End its_end, uint64_t its_domain, const QueuePairTerms& its_terms, size_t its_connection, EventFd its_event)
        : end(its_end), domain(its_domain), terms(its_terms), connection(its_connection), event(std::move(its_event)) {}

    const End end;
    const uint64_t domain;
    const QueuePairTerms terms;
    const size_t connection;
    const EventFd event;

    // All below is the wire's.
    struct Work {
      uint64_t id = 0;
      WorkKind kind = WorkKind::kWrite;
      uint32_t local_key = 0;
      std::span<uint8_t> local;
      RemotePiece remote;
    };
    Side* other = nullptr;  // null when that is gone
    std::deque<Work> work;
    std::deque<Work> receives;
    std::deque<Completion> done;  // the last `held` of them are held back
    size_t held = 0;
    size_t work_under_way = 0;  // until its completion was taken
    size_t receives_under_way = 0;
    bool at_work = false;  // its work is being done
    bool armed = true;
    bool broken = false;
  };

  RdmaWire();

  // Whether the call is to fail, as this.
  absl::Status Step(Call call, End end);

  // The key; never 0.
  absl::StatusOr<uint32_t> Register(End end, uint64_t domain, std::span<uint8_t> memory, MemoryAccess access);
  void Deregister(uint32_t key);

  uint64_t NewDomain();
  // Two that are connected, of the source and of the destination.
  void Join(Side& source, Side& destination);
  size_t NewConnection(absl::string_view greeting);
  void Leave(Side& side);

  absl::Status Post(Side& side, const Side::Work& work, Call call);
  size_t Take(Side& side, std::span<Completion> into);
  void Arm(Side& side);
  void Break(Side& side);
  bool broken(const Side& side) const;

  void LimitRegistered(End end, uint64_t bytes);
  void FailAfter(Call call, End end, uint64_t good);
  void FailStepAfter(uint64_t good);
  uint64_t steps() const;
  void Hold(Held held, size_t connection);
  void LetGo(Held held, size_t connection);
  bool AwaitHeld(Held held, size_t count);
  void TimeOut(size_t connection);
  void Reorder(uint64_t seed);
  void Cut(size_t connection);
  Counts counts() const;
  size_t registrations(End end) const;
  uint64_t registered_bytes(End end) const;
  std::vector<std::string> greetings() const;

 private:
  struct Registration {
    End end;
    uint64_t domain;
    std::span<uint8_t> memory;
    MemoryAccess access;
  };
  // A WRITE that left a queue pair which is no more.
  struct LateWrite {
    Side* to;
    RemotePiece remote;
    std::vector<uint8_t> bytes;
  };

  absl::Status StepLocked(Call call, End end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsHeld(Held held, size_t connection) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t CountHeld(Held held) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Does what can be done. `looked_for`: reordered WRITEs wait for nothing more.
  void Advance(Side& side, bool looked_for = false) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first `count` works, which are WRITEs, in any order.
  void DoReordered(Side& side, size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Do(Side& side, const Side::Work& work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Send(Side& side, const Side::Work& work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Complete(Side& side, const Completion& completion) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BreakLocked(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether what lies there may be used so by a queue pair of that domain.
  bool MayLocally(uint64_t domain, uint32_t key, std::span<const uint8_t> memory) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The memory of `to`; empty and false when it may not.
  bool MayRemotely(const Side& to, const RemotePiece& piece, size_t bytes, MemoryAccess access,
                   std::span<uint8_t>& memory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Write(std::span<uint8_t> to, std::span<const uint8_t> from) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Wake(Side& side);
  uint64_t RegisteredLocked(End end) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable TimedMutex mutex_;
  uint64_t domains_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t next_key_ ABSL_GUARDED_BY(mutex_) = 0x1000;
  std::map<uint32_t, Registration> registered_ ABSL_GUARDED_BY(mutex_);
  std::array<uint64_t, 2> limits_ ABSL_GUARDED_BY(mutex_);
  std::vector<Side*> sides_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> greetings_ ABSL_GUARDED_BY(mutex_);
  std::vector<LateWrite> late_ ABSL_GUARDED_BY(mutex_);
  struct Failure {
    std::optional<std::pair<Call, End>> of;  // any without
    uint64_t good;
  };
  std::vector<Failure> failures_ ABSL_GUARDED_BY(mutex_);
  uint64_t steps_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::pair<Held, size_t>> holds_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_registrations_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<std::mt19937_64> order_ ABSL_GUARDED_BY(mutex_);
  Counts counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_RDMA_WIRE_H_
