// One connection to an export of an NBD server, on a thread of its own. (The NBD protocol's doc/proto.md; libnbd(3).)
#ifndef FERRITE_VMM_MIRROR_NBD_EXPORT_H_
#define FERRITE_VMM_MIRROR_NBD_EXPORT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "vmm/mirror/nbd_library.h"
#include "vmm/mirror/target_name.h"

namespace ferrite {

class NbdExport;

// Who submits one owns it and the memory at `data`, and leaves both alone until it comes back.
struct NbdCommand {
  enum class Kind {
    kRead,
    kWrite,
    kZero,      // with a hole, if the server likes
    kFastZero,  // ENOTSUP where that would be no faster than writing zeroes
    kTrim,      // nothing, where the server has none
    kFlush,     // nothing, where the server has none
  };

  Kind kind = Kind::kRead;
  uint64_t offset = 0;      // in bytes
  uint64_t bytes = 0;       // at most NbdExport::Facts::most_bytes
  uint8_t* data = nullptr;  // kRead, kWrite
  int error = 0;            // the outcome: 0 or an errno value; kNbdLost: see NbdExport::lost()

 private:
  friend class NbdExport;
  NbdExport* at_ = nullptr;
  size_t index_ = 0;    // in NbdExport::in_flight_
  uint64_t come_ = 0;   // bytes of kRead
  int64_t cookie_ = 0;  // libnbd's; 0: it was not issued
};

// The outcome of what the server did not answer.
inline constexpr int kNbdLost = -1;

// Threads: as the methods say. The destructor runs off the loop's thread, while nothing is in flight.
class NbdExport {
 public:
  struct Options {
    uint32_t depth = 16;  // commands at a time, 1 to 4096
    // For all of the look-up of the name, the connection and the handshake.
    absl::Duration connect_limit = absl::Seconds(10);
    // How long the server may take, while commands are in flight, until it has done one of them: bytes that end none
    // do not count. A flush may take its time.
    absl::Duration patience = absl::Minutes(5);
  };
  // What the server said, within bounds.
  struct Facts {
    uint64_t bytes = 0;
    uint32_t block_bytes = 512;       // every command is a multiple of it: a power of two
    uint32_t preferred_bytes = 4096;  // the same, not less than block_bytes, 64 MiB at most
    uint32_t most_bytes = 32 << 20;   // of one command: a multiple of block_bytes
    bool read_only = false;
    bool flush = false;
    bool trim = false;
    bool zero = false;
    bool fast_zero = false;
    bool tls = false;
    std::string name;  // of the export
  };

  // `name` is none of kPath. UNAVAILABLE, DEADLINE_EXCEEDED and others, each with the name and what libnbd said.
  static absl::StatusOr<std::unique_ptr<NbdExport>> Connect(const TargetName& name, EventLoop& loop,
                                                            const Options& options);
  // To the server behind a connected socket; `name` for messages.
  static absl::StatusOr<std::unique_ptr<NbdExport>> ConnectTo(Fd socket, std::string name, EventLoop& loop,
                                                              const Options& options);
  ~NbdExport();

  const Facts& facts() const { return facts_; }

  // `listener` is called on the loop's thread when commands have come back. Set once, before the first Submit().
  void SetListener(std::function<void()> listener) { listener_ = std::move(listener); }
  // On the loop's thread. Not more than `depth` are in flight. Nothing happens before Kick(), which does not wait.
  void Submit(NbdCommand& command);
  void Kick();
  // On the loop's thread. Puts those that came back, in that order, in the place of what is in `done`, which has room
  // for `depth`.
  void TakeDone(std::vector<NbdCommand*>& done);

  // Flushes what the server has done so far, and waits for it: 0 or an errno value, or kNbdLost. Not on the loop's
  // thread, and one at a time; it is not among those of `depth`, which go on. Nothing, where the server has no flush.
  // After a flush that failed, this one or a kFlush, all fail with its error: servers flush files, see FlushRecord.
  int Flush();

  // OK while it is connected; else why it is not any more. Any thread.
  absl::Status lost() const;
  // Ends the connection, and with it all commands. Any thread.
  void Cut();

 private:
  // Starts connecting; as libnbd's nbd_aio_connect_*.
  using BeginConnecting = std::function<int(const NbdLibrary& nbd, nbd_handle* handle)>;

  NbdExport(const NbdLibrary& nbd, std::string name, BeginConnecting begin, const Options& options, EventFd wake,
            EventFd back);
  static absl::StatusOr<std::unique_ptr<NbdExport>> Make(std::string name, BeginConnecting begin, EventLoop& loop,
                                                         const Options& options);

  // Why the connection ends.
  enum class Loss {
    kNone,
    kError,   // libnbd's, the last one of this thread
    kClosed,  // by the server
    kBroken,
    kSilent,
    kGivenUp,
  };
  // Of Flush().
  enum class Early { kNone, kAsked, kBegun, kOver };

  // On its own thread:
  void Run();
  absl::Status Handshake();
  absl::Status Begin(absl::Duration limit);
  absl::Status ReadFacts();
  // False when it is to end.
  bool Turn();
  void Start(NbdCommand& command);
  int64_t Issue(NbdCommand& command, nbd_completion_callback completion);
  static int OnChunk(void* command, const void* data, size_t bytes, uint64_t offset, unsigned status, int* error);
  static int OnCompletion(void* command, int* error);
  void Complete(NbdCommand& command, int error);
  void Report();
  // Waits for the server or for Wake, `limit` at the longest. Why the connection is lost, if it is.
  Loss Step(absl::Duration limit);
  Loss CheckAlive();
  // In words, which take memory; of kError before libnbd is called again.
  absl::Status Words(Loss loss) const;
  absl::Status Failed(absl::string_view words) const;
  absl::Duration PatienceLeft() const;
  void Lose(Loss loss);
  void Close();
  void WatchPeer() const;

  const NbdLibrary& nbd_;
  const std::string name_;
  const BeginConnecting begin_;
  const Options options_;
  const EventFd wake_;  // of its thread
  const EventFd back_;  // of the loop
  std::function<void()> listener_;
  Facts facts_;  // written before connected_
  absl::Status handshake_;
  TimedNotification connected_;

  // Of the loop's thread; the others below are of its own. All have room for what may be in flight.
  std::vector<NbdCommand*> submitted_;
  nbd_handle* handle_ = nullptr;  // null once it is lost
  std::vector<NbdCommand*> starting_;
  std::vector<NbdCommand*> in_flight_;
  std::vector<NbdCommand*> completed_;
  MonotonicTime last_done_;  // a command, or the start of one while there was none
  int flush_error_ = 0;      // of the first flush that failed

  mutable absl::Mutex mutex_;
  std::vector<NbdCommand*> to_do_ ABSL_GUARDED_BY(mutex_);
  std::vector<NbdCommand*> done_ ABSL_GUARDED_BY(mutex_);
  Early early_ ABSL_GUARDED_BY(mutex_) = Early::kNone;
  NbdCommand early_flush_;  // of its own thread while it is kBegun, else of who called Flush()
  absl::Status lost_ ABSL_GUARDED_BY(mutex_);
  bool cut_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<EventLoop::Watch> watch_;
  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_NBD_EXPORT_H_
