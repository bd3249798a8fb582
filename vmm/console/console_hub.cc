#include "vmm/console/console_hub.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/byte_size.h"
#include "base/directory.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite {
namespace {

// poll(2) says that a pipe is writable when so much fits. Standard output that could not be opened anew stays in
// blocking mode: a write of that size does not block.
constexpr size_t kWriteBytes = 4096;
constexpr size_t kMaxInput = 4096;
constexpr absl::Duration kScarcePause = absl::Milliseconds(10);

mode_t TypeOf(int fd) {
  struct stat info = {};
  return fstat(fd, &info) == 0 ? info.st_mode & S_IFMT : 0;
}

// What is wrong with a file (its disk is full, is out of reach) is so until somebody mends it; a pipe, a terminal or a
// socket whose other side is gone stays so.
bool MayPass(bool is_regular_file, int error) { return is_regular_file || error == ENOMEM || error == ENOBUFS; }

int MillisecondsUntil(int64_t ns) {
  constexpr int64_t kNsPerMs = 1'000'000;
  constexpr int64_t kMost = 60'000;
  return static_cast<int>(std::clamp((ns - MonotonicNs()) / kNsPerMs + 1, int64_t{0}, kMost));
}

std::span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Less would hold little more than the line at its end.
constexpr uint64_t kLeastFileLimit = 4096;

std::string LimitNotice(uint64_t max_bytes) {
  return absl::StrCat("\r\n[ferrite] this file has reached its limit of ", FormatByteSize(max_bytes),
                      ": what follows is not in it\r\n");
}

// Takes ",max=SIZE" off the end of `path`, if it is there.
absl::StatusOr<uint64_t> TakeFileLimit(absl::string_view& path) {
  constexpr absl::string_view kOption = ",max=";
  const size_t at = path.rfind(kOption);
  if (at == absl::string_view::npos) {
    return uint64_t{0};
  }
  FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, ParseByteSize(path.substr(at + kOption.size())));
  if (bytes < kLeastFileLimit) {
    return absl::InvalidArgumentError(
        absl::StrCat("a limit of ", bytes, " bytes is too small; the least is ", FormatByteSize(kLeastFileLimit)));
  }
  path = path.substr(0, at);
  return bytes;
}

}  // namespace

absl::StatusOr<ConsoleSink> ParseConsoleSink(absl::string_view text) {
  ConsoleSink sink;
  absl::string_view path = text;
  if (text == "none" || text == "stdio") {
    sink.kind = text == "none" ? ConsoleSink::Kind::kNone : ConsoleSink::Kind::kStdio;
    return sink;
  }
  if (absl::ConsumePrefix(&path, "file:")) {
    sink.kind = ConsoleSink::Kind::kFile;
    const auto max_bytes = TakeFileLimit(path);
    FERRITE_RETURN_IF_ERROR(Annotate(max_bytes.status(), absl::StrCat("console \"", text, "\"")));
    sink.max_bytes = *max_bytes;
  } else if (absl::ConsumePrefix(&path, "unix:")) {
    sink.kind = ConsoleSink::Kind::kUnix;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("console \"", text, "\" is none of stdio, none, file:PATH[,max=SIZE], unix:PATH"));
  }
  if (path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("console \"", text, "\" has no path after the colon"));
  }
  sink.path = std::string(path);
  return sink;
}

absl::StatusOr<std::unique_ptr<ConsoleHub>> ConsoleHub::Create(Options options) {
  FERRITE_ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  std::pair<Fd, SocketFile> listener;
  Fd file;
  const std::string& path = options.sink.path;
  if (options.sink.kind == ConsoleSink::Kind::kFile) {
    // What is no file has no size to be limited.
    const AppendTo what = options.sink.max_bytes > 0 ? AppendTo::kRegularFile : AppendTo::kAnything;
    FERRITE_ASSIGN_OR_RETURN(file, OpenForAppending(path, what));
  } else if (options.sink.kind == ConsoleSink::Kind::kUnix) {
    auto made = ListenOnPath(path);
    if (absl::IsAlreadyExists(made.status())) {
      return absl::AlreadyExistsError(absl::StrCat("console socket ", path, " exists already; choose another path"));
    }
    FERRITE_RETURN_IF_ERROR(made.status());
    listener = *std::move(made);
  }
  std::unique_ptr<ConsoleHub> hub(new ConsoleHub(std::move(options), std::move(wake), std::move(listener.first),
                                                 std::move(listener.second), std::move(file)));
  FERRITE_ASSIGN_OR_RETURN(hub->thread_, Thread::Start("console", [hub = hub.get()] { hub->Run(); }));
  return hub;
}

ConsoleHub::ConsoleHub(Options options, EventFd wake, Fd listener, SocketFile socket_file, Fd file)
    : options_(std::move(options)),
      wake_(std::move(wake)),
      listener_(std::move(listener)),
      socket_file_(std::move(socket_file)) {
  input_.reserve(kMaxInput);
  if (file.valid() || options_.sink.kind == ConsoleSink::Kind::kStdio) {
    Outlet& sink = outlets_.emplace_back();
    sink.is_sink = true;
    sink.owned = file.valid() ? std::move(file) : OpenForWritingWithoutWaiting(options_.output_fd);
    sink.fd = sink.owned.valid() ? sink.owned.get() : options_.output_fd;
    sink.is_socket = TypeOf(sink.fd) == S_IFSOCK;
    sink.is_regular_file = TypeOf(sink.fd) == S_IFREG;
  }
  if (options_.sink.kind == ConsoleSink::Kind::kStdio) {
    auto terminal = RawTerminal::Create(options_.input_fd);
    // A terminal that is not ours to read (we are in its background) is left alone.
    standard_input_open_ = terminal.ok() || isatty(options_.input_fd) == 0;
    if (terminal.ok()) {
      terminal_ = *std::move(terminal);
    }
  }
}

ConsoleHub::~ConsoleHub() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake_.Signal();
  thread_.Join();
}

void ConsoleHub::Transmit(std::span<const uint8_t> bytes) {
  {
    absl::MutexLock lock(&mutex_);
    ring_.Append(bytes);
    if (std::exchange(woken_, true)) {
      return;
    }
  }
  wake_.Signal();
}

void ConsoleHub::SetReceiver(Receiver receiver) {
  {
    absl::MutexLock lock(&receiver_mutex_);
    receiver_ = std::move(receiver);
  }
  Wake();
}

void ConsoleHub::ReceiverReady() { Wake(); }

absl::StatusOr<Fd> ConsoleHub::Attach() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus("make a socket pair for a console client");
  }
  Fd ours(ends[0]);
  Fd theirs(ends[1]);
  // Our end only: each end has an open file of its own.
  if (fcntl(ours.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoStatus("prepare the socket of a console client");
  }
  std::list<Outlet> client;
  client.push_back(OutletTo(std::move(ours), /*is_sink=*/false));
  {
    absl::MutexLock lock(&mutex_);
    if (client_count_ >= kMaxClients) {
      return absl::ResourceExhaustedError(
          absl::StrCat(kMaxClients, " clients are attached to the console; leave one of them with Ctrl-a x"));
    }
    ++client_count_;
    new_clients_.splice(new_clients_.end(), client);
  }
  Wake();
  return theirs;
}

void ConsoleHub::Wake() {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(woken_, true)) {
      return;
    }
  }
  wake_.Signal();
}

// What the console's thread has from one turn to the next.
struct ConsoleHub::Progress {
  bool stopping = false;
  MonotonicTime last_progress;
  std::vector<pollfd> polled;
};

void ConsoleHub::Run() {
  Progress progress;
  for (bool over = false; !over;) {
    const auto turn = [&] {
      over = !Turn(progress);
      return absl::OkStatus();
    };
    if (!CatchOutOfMemory(turn).ok()) {
      absl::SleepFor(kScarcePause);
    }
  }
  outlets_.clear();
  terminal_.reset();
}

bool ConsoleHub::Turn(Progress& progress) {
  auto& [stopping, last_progress, polled] = progress;
  TakeNewClients();
  DeliverInput();
  const bool room = input_.size() < kMaxInput && !stopping;
  bool sink_pending = false;
  bool any_pending = false;
  polled.clear();
  polled.push_back({wake_.fd(), POLLIN, 0});
  const bool reads_input = standard_input_open_ && (room || (terminal_ != nullptr && !stopping));
  polled.push_back({reads_input ? options_.input_fd : -1, POLLIN, 0});
  const bool accepts = MonotonicNs() >= accept_again_ns_;
  polled.push_back({stopping || !accepts ? -1 : listener_.get(), POLLIN, 0});
  int timeout_ms = accepts ? -1 : MillisecondsUntil(accept_again_ns_);
  for (const Outlet& outlet : outlets_) {
    const bool pending = HasPending(outlet);
    any_pending |= pending;
    sink_pending |= pending && outlet.is_sink;
    const bool waits = pending && outlet.failing && MonotonicNs() < outlet.retry_ns;
    if (waits) {
      const int ms = MillisecondsUntil(outlet.retry_ns);
      timeout_ms = timeout_ms < 0 ? ms : std::min(timeout_ms, ms);
    }
    const bool reads = outlet.owned.valid() && outlet.is_socket && room;
    const short events = static_cast<short>((pending && !waits ? POLLOUT : 0) | (reads ? POLLIN : 0));
    polled.push_back({events != 0 ? outlet.fd : -1, events, 0});
  }
  if (stopping) {
    const absl::Duration patience = sink_pending ? options_.sink_patience : options_.client_patience;
    const absl::Duration left = last_progress + patience - MonotonicTime::Now();
    if (!any_pending || left <= absl::ZeroDuration()) {
      return false;
    }
    timeout_ms = static_cast<int>(absl::ToInt64Milliseconds(left)) + 1;
  }
  if (poll(polled.data(), polled.size(), timeout_ms) < 0) {
    FERRITE_CHECK(errno == EINTR || errno == ENOMEM || errno == EINVAL);
    if (errno != EINTR) {
      // No memory, or fewer files allowed than are open here by now: nothing tells when that is over, and only what
      // the hub itself is told is looked at.
      absl::SleepFor(kScarcePause);
    }
    for (pollfd& one : polled) {
      one.revents = 0;
    }
    polled[0].revents = POLLIN;
  }
  if (polled[0].revents != 0) {
    wake_.Drain();
    absl::MutexLock lock(&mutex_);
    woken_ = false;
    if (stopping_ && !stopping) {
      stopping = true;
      last_progress = MonotonicTime::Now();
      for (Outlet& outlet : outlets_) {
        outlet.retry_ns = 0;
      }
    }
  }
  if (polled[1].revents != 0) {
    ReadStandardInput();
  }
  auto outlet = outlets_.begin();
  for (size_t i = 3; i < polled.size(); ++i) {
    const short events = polled[i].revents;
    bool alive = true;
    if ((polled[i].events & POLLIN) != 0 && (events & ~POLLOUT) != 0) {
      alive = ReadClient(*outlet);
    }
    if (alive && (polled[i].events & POLLOUT) != 0 && events != 0) {
      const uint64_t before = outlet->position;
      alive = WriteSome(*outlet, stopping);
      last_progress = outlet->position != before ? MonotonicTime::Now() : last_progress;
    }
    if (!alive && !outlet->is_sink) {
      absl::MutexLock lock(&mutex_);
      --client_count_;
    }
    outlet = alive ? std::next(outlet) : outlets_.erase(outlet);
  }
  // Last, because it adds an outlet.
  if (polled[2].revents != 0) {
    AcceptSocketClient();
  }
  return true;
}

bool ConsoleHub::HasPending(const Outlet& outlet) {
  absl::MutexLock lock(&mutex_);
  return !outlet.notice.empty() || outlet.dropped > 0 || outlet.position < ring_.end();
}

bool ConsoleHub::WriteSome(Outlet& outlet, bool stopping) {
  uint8_t buffer[kWriteBytes];
  size_t size = 0;
  std::string notice = outlet.notice;
  {
    absl::MutexLock lock(&mutex_);
    if (outlet.position < ring_.begin()) {
      const uint64_t lost = ring_.begin() - outlet.position;
      outlet.position = ring_.begin();
      outlet.dropped += lost;
      if (outlet.is_sink) {
        dropped_bytes_ += lost;
      }
    }
    if (notice.empty() && outlet.dropped == 0) {
      size = ring_.Read(outlet.position, buffer);
    }
  }
  // Told as one number, however often it could not be told before.
  const bool tells_dropped = notice.empty() && outlet.dropped > 0;
  if (tells_dropped) {
    notice = absl::StrCat("\r\n[ferrite] ", outlet.dropped, " bytes of console output were dropped here\r\n");
  }
  std::span<const uint8_t> out = notice.empty() ? std::span<const uint8_t>(buffer, size)
                                                : AsBytes(notice).first(std::min(notice.size(), kWriteBytes));
  if (outlet.is_sink && options_.sink.max_bytes > 0) {
    out = out.first(std::min(out.size(), RoomIn(outlet)));
    if (out.empty()) {
      return PutOff(outlet,
                    absl::ResourceExhaustedError(absl::StrCat(NameOf(outlet), " has reached its limit of ",
                                                              FormatByteSize(options_.sink.max_bytes))),
                    /*may_pass=*/true, stopping);
    }
  }
  const ssize_t n = outlet.is_socket ? send(outlet.fd, out.data(), out.size(), MSG_NOSIGNAL | MSG_DONTWAIT)
                                     : write(outlet.fd, out.data(), out.size());
  if (n < 0) {
    return Endure(outlet, errno, stopping);
  }
  if (std::exchange(outlet.failing, false) && outlet.is_sink) {
    Log().warn("console output goes on: {} takes it again", NameOf(outlet));
  }
  if (notice.empty()) {
    outlet.position += static_cast<uint64_t>(n);
    return true;
  }
  outlet.notice = notice.substr(static_cast<size_t>(n));
  if (tells_dropped && n > 0) {
    outlet.dropped = 0;
  }
  return true;
}

bool ConsoleHub::Endure(Outlet& outlet, int error, bool stopping) {
  if (error == EAGAIN || error == EINTR) {
    return true;
  }
  return PutOff(outlet, ErrnoStatus(error, absl::StrCat("write to ", NameOf(outlet))),
                MayPass(outlet.is_regular_file, error), stopping);
}

bool ConsoleHub::PutOff(Outlet& outlet, const absl::Status& why, bool may_pass, bool stopping) {
  if (may_pass && !stopping) {
    if (!std::exchange(outlet.failing, true) && outlet.is_sink) {
      Log().warn("console output waits: {}; the last {} KiB of it are kept until that has passed", why.message(),
                 kBufferBytes >> 10);
    }
    outlet.retry_ns = MonotonicNs() + absl::ToInt64Nanoseconds(options_.retry_period);
    return true;
  }
  if (outlet.is_sink && !outlet.is_socket) {
    uint64_t missing = 0;
    {
      absl::MutexLock lock(&mutex_);
      missing = ring_.end() - outlet.position;
      dropped_bytes_ += missing;
    }
    Log().warn("console output ends here: {}; its next {} bytes are not there", why.message(),
               missing + outlet.dropped);
  }
  return false;
}

size_t ConsoleHub::RoomIn(const Outlet& outlet) const {
  const uint64_t max = options_.sink.max_bytes;
  struct stat info = {};
  // What somebody else appends counts, too, and what somebody cut off does not any more.
  const uint64_t size = fstat(outlet.fd, &info) == 0 ? static_cast<uint64_t>(info.st_size) : max;
  const std::string notice = LimitNotice(max);
  if (size + notice.size() < max) {
    return max - notice.size() - size;
  }
  if (size + notice.size() == max) {
    // When it cannot be written (a full disk), it is tried again with the output.
    (void)!write(outlet.fd, notice.data(), notice.size());
  }
  return 0;
}

std::string ConsoleHub::NameOf(const Outlet& outlet) const {
  if (!outlet.is_sink) {
    return "a client of the console";
  }
  return options_.sink.path.empty() ? "standard output" : options_.sink.path;
}

bool ConsoleHub::ReadClient(Outlet& outlet) {
  char buffer[kMaxInput];
  const ssize_t n = recv(outlet.fd, buffer, kMaxInput - input_.size(), MSG_DONTWAIT);
  if (n < 0) {
    return errno == EAGAIN || errno == EINTR;
  }
  input_.append(buffer, static_cast<size_t>(n));
  return n > 0 || input_.size() == kMaxInput;
}

void ConsoleHub::ReadStandardInput() {
  uint8_t buffer[kMaxInput];
  const ssize_t n = read(options_.input_fd, buffer, terminal_ != nullptr ? sizeof(buffer) : kMaxInput - input_.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  if (n <= 0) {
    // The machine runs on without input.
    standard_input_open_ = false;
    return;
  }
  const std::span<const uint8_t> typed(buffer, static_cast<size_t>(n));
  if (terminal_ == nullptr) {
    input_.append(reinterpret_cast<const char*>(typed.data()), typed.size());
    return;
  }
  EscapeFilter::Result result = escape_.Feed(typed);
  input_.append(result.to_guest, 0, kMaxInput - input_.size());
  for (Outlet& outlet : outlets_) {
    if (result.help && outlet.is_sink) {
      outlet.notice += EscapeHelp("stop the machine");
    }
  }
  if (result.leave && options_.leave) {
    options_.leave();
  }
}

void ConsoleHub::AcceptSocketClient() {
  Fd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!client.valid()) {
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      // No descriptors or no memory: nothing would tell when there are some again, and the listener stays readable.
      const MonotonicTime now = MonotonicTime::Now();
      accept_again_ns_ = MonotonicNs() + absl::ToInt64Nanoseconds(options_.retry_period);
      if (const std::optional<uint64_t> not_logged = accept_backoff_.Count(now); not_logged.has_value()) {
        Log().warn("console: {}; it is tried again{}",
                   ErrnoStatus(absl::StrCat("accept on ", options_.sink.path)).message(),
                   *not_logged == 0 ? "" : absl::StrCat(" (and ", *not_logged, " failures before it)"));
      }
    }
    return;
  }
  const bool busy = std::any_of(outlets_.begin(), outlets_.end(), [](const Outlet& o) { return o.is_sink; });
  if (busy) {
    constexpr absl::string_view kBusy = "[ferrite] this console is in use\r\n";
    (void)send(client.get(), kBusy.data(), kBusy.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return;
  }
  outlets_.push_back(OutletTo(std::move(client), /*is_sink=*/true));
  absl::MutexLock lock(&mutex_);
  outlets_.back().position = ReplayFrom();
}

void ConsoleHub::TakeNewClients() {
  absl::MutexLock lock(&mutex_);
  for (Outlet& client : new_clients_) {
    client.position = ReplayFrom();
  }
  outlets_.splice(outlets_.end(), new_clients_);
}

ConsoleHub::Outlet ConsoleHub::OutletTo(Fd client, bool is_sink) {
  Outlet outlet;
  outlet.fd = client.get();
  outlet.owned = std::move(client);
  outlet.is_socket = true;
  outlet.is_sink = is_sink;
  return outlet;
}

uint64_t ConsoleHub::ReplayFrom() const {
  return std::max(ring_.begin(), ring_.end() - std::min<uint64_t>(ring_.end(), kReplayBytes));
}

void ConsoleHub::DeliverInput() {
  if (input_.empty()) {
    return;
  }
  absl::MutexLock lock(&receiver_mutex_);
  if (receiver_) {
    input_.erase(0, receiver_(AsBytes(input_)));
  }
}

}  // namespace ferrite
