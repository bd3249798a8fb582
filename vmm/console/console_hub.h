// The monitor's end of the guest's serial console: one sink, any attached clients, and what was printed last.
#ifndef FERRITE_VMM_CONSOLE_CONSOLE_HUB_H_
#define FERRITE_VMM_CONSOLE_CONSOLE_HUB_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/log_backoff.h"
#include "base/socket_file.h"
#include "base/thread.h"
#include "devices/serial/serial_backend.h"
#include "vmm/console/escape_filter.h"
#include "vmm/console/output_ring.h"
#include "vmm/console/raw_terminal.h"

namespace ferrite {

// Where --console sends the output.
struct ConsoleSink {
  enum class Kind {
    kNone,   // "none": only clients that attach
    kStdio,  // "stdio": this process's standard input and output
    kFile,   // "file:PATH[,max=SIZE]": appended to; no input
    kUnix,   // "unix:PATH": a listening socket, for one client at a time
  };
  Kind kind = Kind::kNone;
  std::string path;
  // How large the file may grow, a line at its end that says so among it; 0 for no limit.
  uint64_t max_bytes = 0;
};
absl::StatusOr<ConsoleSink> ParseConsoleSink(absl::string_view text);

// Output goes to the sink and to every attached client, from a buffer of the last kBufferBytes: whoever is further
// behind loses the bytes between, and gets one line with their number in their place. A new client first gets the last
// kReplayBytes. Input of the sink and of all clients is mixed into the port as it comes; while the port takes none, it
// is not read. A terminal is read all the same, for its escape keys; what else is typed then is lost.
//
// A file that cannot be written to (its disk is full) is like a reader that is slow: it is tried again, now and then,
// for as long as the console lives. The log says when it begins and when it is over. Only at the end does nobody wait.
// A file that has reached its limit is one, too; it goes on when somebody makes it shorter.
//
// Threads: any may call the public methods; the destructor runs after everybody else is done. All I/O happens on one
// thread, "console".
class ConsoleHub final : public SerialBackend {
 public:
  static constexpr size_t kBufferBytes = size_t{256} << 10;
  static constexpr size_t kReplayBytes = size_t{64} << 10;
  static constexpr size_t kMaxClients = 8;

  struct Options {
    ConsoleSink sink;
    // Called on the console's thread when somebody typed Ctrl-a x at a stdio sink; must not block. Standard input gets
    // escape keys and raw mode only when it is a terminal.
    std::function<void()> leave;
    // For tests, in place of standard input and output. They stay the caller's.
    int input_fd = 0;
    int output_fd = 1;
    // How long the destructor waits for a sink, or a client, that does not take anything.
    absl::Duration sink_patience = absl::Seconds(5);
    absl::Duration client_patience = absl::Milliseconds(500);
    // How soon to try again what could not be written to, and to accept a client that could not be accepted.
    absl::Duration retry_period = absl::Seconds(1);
  };
  // Opens the sink. The error names its path.
  static absl::StatusOr<std::unique_ptr<ConsoleHub>> Create(Options options);
  // Writes what is buffered, restores the terminal, removes the socket.
  ~ConsoleHub() override;

  // Never blocks.
  void Transmit(std::span<const uint8_t> bytes) override;
  void SetReceiver(Receiver receiver) override;
  void ReceiverReady() override;

  // One end of a stream socket pair whose other end is a new client; the client ends when it is closed.
  // RESOURCE_EXHAUSTED when there are kMaxClients.
  absl::StatusOr<Fd> Attach();

  // Bytes that did not reach the sink.
  uint64_t dropped_bytes() const { return dropped_bytes_.load(std::memory_order_relaxed); }

 private:
  // Somebody who gets the output, from `position` on. On the console's thread only.
  struct Outlet {
    Fd owned;
    int fd = -1;
    bool is_socket = false;
    bool is_regular_file = false;
    bool is_sink = false;
    uint64_t position = 0;
    std::string notice;    // goes out before the next byte of output
    uint64_t dropped = 0;  // bytes before `position` that it was not told of yet
    bool failing = false;  // the last write was an error that may pass
    int64_t retry_ns = 0;  // by the monotonic clock: when to try again
  };

  ConsoleHub(Options options, EventFd wake, Fd listener, SocketFile socket_file, Fd file);

  struct Progress;
  void Run();
  // Waits for something to do, and does it; false at the end. One that finds no memory in the middle is gone on with in
  // the next.
  bool Turn(Progress& progress);
  bool HasPending(const Outlet& outlet);
  // Writes once; false when the outlet is gone.
  bool WriteSome(Outlet& outlet, bool stopping);
  // After a write that failed with the errno value `error`; false when the outlet is gone.
  bool Endure(Outlet& outlet, int error, bool stopping);
  // What cannot be written, because of `why`, is tried again later if that `may_pass`; false when the outlet is gone.
  bool PutOff(Outlet& outlet, const absl::Status& why, bool may_pass, bool stopping);
  // How many bytes may be written to the sink's file; when there are none, it says so at its end.
  size_t RoomIn(const Outlet& outlet) const;
  std::string NameOf(const Outlet& outlet) const;
  // Reads once into input_; false when the client is gone.
  bool ReadClient(Outlet& outlet);
  void ReadStandardInput();
  void AcceptSocketClient();
  void TakeNewClients();
  static Outlet OutletTo(Fd client, bool is_sink);
  // Where a new client's output begins.
  uint64_t ReplayFrom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DeliverInput();
  void Wake();

  const Options options_;
  EventFd wake_;
  // Of a unix sink.
  Fd listener_;
  SocketFile socket_file_;

  absl::Mutex mutex_;
  OutputRing ring_ ABSL_GUARDED_BY(mutex_){kBufferBytes};
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<Outlet> new_clients_ ABSL_GUARDED_BY(mutex_);
  size_t client_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<uint64_t> dropped_bytes_ = 0;

  // Held while the receiver runs; the receiver may take the port's lock, under which Transmit() is called, so this is
  // never held together with mutex_.
  absl::Mutex receiver_mutex_;
  Receiver receiver_ ABSL_GUARDED_BY(receiver_mutex_);

  // The console thread's own.
  std::list<Outlet> outlets_;
  std::string input_;  // bounded; typed, but not yet taken by the port
  bool standard_input_open_ = false;
  int64_t accept_again_ns_ = 0;  // by the monotonic clock: the socket is left alone until then
  LogBackoff accept_backoff_;
  std::unique_ptr<RawTerminal> terminal_;
  EscapeFilter escape_;

  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONSOLE_CONSOLE_HUB_H_
