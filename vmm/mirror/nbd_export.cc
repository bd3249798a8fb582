#include "vmm/mirror/nbd_export.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bounded_call.h"
#include "base/clean_text.h"
#include "base/out_of_memory.h"
#include "base/poll.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr uint32_t kMostBlock = 64 << 10;      // that a server may insist on (the protocol's "Block size constraints")
constexpr uint32_t kMostPreferred = 64 << 20;  // of BlockIo
// What every server takes at once that says nothing else.
constexpr uint32_t kMostPayload = 32 << 20;
// What a server has to take a good-bye, once nothing is in flight.
constexpr absl::Duration kFarewell = absl::Seconds(1);
// A host that does not answer any more is found out by then, where the kernel asks for it.
constexpr int kIdleSeconds = 30;
constexpr int kProbeSeconds = 10;
constexpr int kProbes = 3;

bool IsBlockSize(int64_t bytes) {
  return bytes > 0 && bytes <= kMostBlock && std::has_single_bit(static_cast<uint64_t>(bytes));
}

// Of the last call on this thread.
absl::Status LastError(const NbdLibrary& nbd, absl::string_view words) {
  const int error = nbd.get_errno();
  const absl::StatusCode code = error == 0 ? absl::StatusCode::kUnavailable : absl::ErrnoToStatusCode(error);
  return absl::Status(code, absl::StrCat(words, nbd.LastError()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<NbdExport>> NbdExport::Connect(const TargetName& name, EventLoop& loop,
                                                              const Options& options) {
  if (name.kind == TargetName::Kind::kNbdUnix) {
    return Make(
        name.text,
        [name](const NbdLibrary& nbd, nbd_handle* handle) {
          return nbd.set_export_name(handle, name.export_name.c_str()) != 0
                     ? -1
                     : nbd.aio_connect_unix(handle, name.socket.c_str());
        },
        loop, options);
  }
  return Make(
      name.text,
      // Files for TLS are what the user names, and so may be read.
      [uri = name.text](const NbdLibrary& nbd, nbd_handle* handle) {
        return nbd.set_uri_allow_local_file(handle, true) != 0 ? -1 : nbd.aio_connect_uri(handle, uri.c_str());
      },
      loop, options);
}

absl::StatusOr<std::unique_ptr<NbdExport>> NbdExport::ConnectTo(Fd socket, std::string name, EventLoop& loop,
                                                                const Options& options) {
  auto own = std::make_shared<Fd>(std::move(socket));
  return Make(
      std::move(name),
      [own](const NbdLibrary& nbd, nbd_handle* handle) {
        const int result = nbd.aio_connect_socket(handle, own->get());
        if (result == 0) {
          (void)own->Release();  // the handle's from here on
        }
        return result;
      },
      loop, options);
}

NbdExport::NbdExport(const NbdLibrary& nbd, std::string name, BeginConnecting begin, const Options& options,
                     EventFd wake, EventFd back)
    : nbd_(nbd),
      name_(std::move(name)),
      begin_(std::move(begin)),
      options_(options),
      wake_(std::move(wake)),
      back_(std::move(back)) {
  for (auto* queue : {&submitted_, &starting_, &in_flight_, &completed_}) {
    queue->reserve(options.depth + 1);  // Flush()
  }
  absl::MutexLock lock(&mutex_);
  to_do_.reserve(options.depth);
  done_.reserve(options.depth);
}

absl::StatusOr<std::unique_ptr<NbdExport>> NbdExport::Make(std::string name, BeginConnecting begin, EventLoop& loop,
                                                           const Options& options) {
  FERRITE_ASSIGN_OR_RETURN(const NbdLibrary* const nbd, NbdLibrary::Load());
  FERRITE_ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  FERRITE_ASSIGN_OR_RETURN(EventFd back, EventFd::Create());
  auto made = std::unique_ptr<NbdExport>(
      new NbdExport(*nbd, std::move(name), std::move(begin), options, std::move(wake), std::move(back)));
  NbdExport* const self = made.get();
  FERRITE_ASSIGN_OR_RETURN(self->watch_, loop.WatchReadable(self->back_.fd(), [self] {
    self->back_.Drain();
    self->listener_();
  }));
  FERRITE_ASSIGN_OR_RETURN(self->thread_, Thread::Start("nbd-target", [self] { self->Run(); }));
  self->connected_.WaitFor(absl::InfiniteDuration());  // Handshake() has the limit
  FERRITE_RETURN_IF_ERROR(self->handshake_);
  return made;
}

NbdExport::~NbdExport() {
  watch_.reset();
  {
    absl::MutexLock lock(&mutex_);
    FERRITE_CHECK(submitted_.empty() && to_do_.empty() && done_.empty());
    stopping_ = true;
  }
  wake_.Signal();
  thread_.Join();
  FERRITE_CHECK(starting_.empty() && in_flight_.empty() && completed_.empty());
}

void NbdExport::Submit(NbdCommand& command) {
  FERRITE_CHECK(submitted_.size() < options_.depth);
  command.at_ = this;
  command.error = 0;
  submitted_.push_back(&command);
}

void NbdExport::Kick() {
  if (submitted_.empty()) {
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    FERRITE_CHECK(to_do_.size() + submitted_.size() <= options_.depth);
    to_do_.insert(to_do_.end(), submitted_.begin(), submitted_.end());
  }
  submitted_.clear();
  wake_.Signal();
}

void NbdExport::TakeDone(std::vector<NbdCommand*>& done) {
  done.clear();
  absl::MutexLock lock(&mutex_);
  done_.swap(done);
}

int NbdExport::Flush() {
  {
    absl::MutexLock lock(&mutex_);
    FERRITE_CHECK(early_ == Early::kNone);
    early_flush_.kind = NbdCommand::Kind::kFlush;
    early_flush_.error = 0;
    early_flush_.at_ = this;
    early_ = Early::kAsked;
  }
  wake_.Signal();
  // It ends: the server answers, or patience does.
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return early_ == Early::kOver; };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&over));
  early_ = Early::kNone;
  return early_flush_.error;
}

absl::Status NbdExport::lost() const {
  absl::MutexLock lock(&mutex_);
  return lost_;
}

void NbdExport::Cut() {
  {
    absl::MutexLock lock(&mutex_);
    cut_ = true;
  }
  wake_.Signal();
}

void NbdExport::Run() {
  handshake_ = CatchOutOfMemory([this] {
    FERRITE_RETURN_IF_ERROR(Handshake());
    return ReadFacts();
  });
  const bool connected = handshake_.ok();
  if (!connected) {
    Close();
  }
  connected_.Notify();
  while (connected && Turn()) {
  }
}

absl::Status NbdExport::Failed(absl::string_view words) const { return LastError(nbd_, words); }

// What libnbd does before it returns heeds no limit: it looks names up (getaddrinfo(3)), and opens files.
absl::Status NbdExport::Begin(absl::Duration limit) {
  handle_ = nbd_.create();
  if (handle_ == nullptr) {
    return Failed(absl::StrCat(name_, ": "));
  }
  const std::optional<absl::Status> begun = RunBounded(
      "nbd-look-up", limit,
      [&nbd = nbd_, name = name_, begin = begin_, handle = handle_] {
        return begin(nbd, handle) == 0 ? absl::OkStatus() : LastError(nbd, absl::StrCat(name, ": "));
      },
      [&nbd = nbd_, handle = handle_] { nbd.close(handle); });
  if (!begun.has_value()) {
    handle_ = nullptr;  // it is not over, and is closed then
    return absl::DeadlineExceededError(
        absl::StrCat(name_, ": its host is not found within ", absl::FormatDuration(limit)));
  }
  return *begun;
}

absl::Status NbdExport::Words(Loss loss) const {
  switch (loss) {
    case Loss::kNone:
      break;
    case Loss::kError:
      return Failed("");
    case Loss::kClosed:
      return absl::UnavailableError("the server has closed the connection");
    case Loss::kBroken:
      return absl::UnavailableError("the connection broke");
    case Loss::kSilent:
      return absl::DeadlineExceededError(
          absl::StrCat("the server did nothing for ", absl::FormatDuration(options_.patience)));
    case Loss::kGivenUp:
      return absl::CancelledError("it was given up");
  }
  return absl::OkStatus();
}

absl::Status NbdExport::Handshake() {
  const MonotonicTime deadline = MonotonicTime::Now() + options_.connect_limit;
  FERRITE_RETURN_IF_ERROR(Begin(options_.connect_limit));
  while (nbd_.aio_is_ready(handle_) != 1) {
    FERRITE_RETURN_IF_ERROR(Annotate(Words(CheckAlive()), name_));
    const absl::Duration left = deadline - MonotonicTime::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat(name_, ": the server does not answer within ", absl::FormatDuration(options_.connect_limit)));
    }
    FERRITE_RETURN_IF_ERROR(Annotate(Words(Step(left)), name_));
  }
  WatchPeer();
  return absl::OkStatus();
}

absl::Status NbdExport::ReadFacts() {
  const int64_t bytes = nbd_.get_size(handle_);
  const int64_t least = nbd_.get_block_size(handle_, LIBNBD_SIZE_MINIMUM);
  const int64_t preferred = nbd_.get_block_size(handle_, LIBNBD_SIZE_PREFERRED);
  const int64_t most = nbd_.get_block_size(handle_, LIBNBD_SIZE_MAXIMUM);
  // Of one that has more than an int64_t tells libnbd says the same as of an error.
  if (bytes < 0 || least < 0 || preferred < 0 || most < 0) {
    return Failed(absl::StrCat(name_, ": "));
  }
  facts_.bytes = static_cast<uint64_t>(bytes);
  if (least != 0) {
    if (!IsBlockSize(least)) {
      return absl::FailedPreconditionError(
          absl::StrCat(name_, ": the server's smallest block is of ", least, " bytes"));
    }
    facts_.block_bytes = static_cast<uint32_t>(least);
  }
  const int64_t wanted = preferred == 0 ? facts_.preferred_bytes : preferred;
  facts_.preferred_bytes =
      std::bit_floor(static_cast<uint32_t>(std::clamp<int64_t>(wanted, facts_.block_bytes, kMostPreferred)));
  const auto limit = static_cast<uint32_t>(most == 0 ? kMostPayload : std::min<int64_t>(most, kMostPayload));
  facts_.most_bytes = limit / facts_.block_bytes * facts_.block_bytes;
  if (facts_.most_bytes == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        name_, ": the server takes ", most, " bytes at once, and its smallest block is of ", facts_.block_bytes));
  }
  // What cannot be said (-1) is not there; but what cannot be said to be writable is not.
  facts_.read_only = nbd_.is_read_only(handle_) != 0;
  facts_.flush = nbd_.can_flush(handle_) == 1;
  facts_.trim = nbd_.can_trim(handle_) == 1;
  facts_.zero = nbd_.can_zero(handle_) == 1;
  facts_.fast_zero = facts_.zero && nbd_.can_fast_zero(handle_) == 1;
  facts_.tls = nbd_.get_tls_negotiated(handle_) == 1;
  if (char* const name = nbd_.get_export_name(handle_); name != nullptr) {
    facts_.name = CleanText(name);
    std::free(name);
  }
  return absl::OkStatus();
}

// Has the kernel find out that the host of a server is gone. Where it cannot be told so, patience does.
void NbdExport::WatchPeer() const {
  const int fd = nbd_.aio_get_fd(handle_);
  int domain = 0;
  socklen_t length = sizeof(domain);
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || (domain != AF_INET && domain != AF_INET6)) {
    return;
  }
  const auto set = [fd](int level, int option, int value) {
    (void)setsockopt(fd, level, option, &value, sizeof(value));
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, kIdleSeconds);
  set(IPPROTO_TCP, TCP_KEEPINTVL, kProbeSeconds);
  set(IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 1000 * (kIdleSeconds + kProbeSeconds * kProbes));
  set(IPPROTO_TCP, TCP_NODELAY, 1);
}

absl::Duration NbdExport::PatienceLeft() const {
  return in_flight_.empty() ? absl::InfiniteDuration() : last_done_ + options_.patience - MonotonicTime::Now();
}

bool NbdExport::Turn() {
  bool cut = false;
  bool stop = false;
  bool flush = false;
  {
    absl::MutexLock lock(&mutex_);
    starting_.swap(to_do_);
    cut = cut_;
    stop = stopping_;
    if (early_ == Early::kAsked) {
      early_ = Early::kBegun;
      flush = true;
    }
  }
  if (stop) {
    if (handle_ != nullptr && nbd_.aio_disconnect(handle_, 0) == 0) {
      const MonotonicTime deadline = MonotonicTime::Now() + kFarewell;
      absl::Duration left = kFarewell;
      while (left > absl::ZeroDuration() && Step(left) == Loss::kNone) {
        left = deadline - MonotonicTime::Now();
      }
    }
    Close();
    return false;
  }
  if (cut) {
    Lose(Loss::kGivenUp);
  }
  for (NbdCommand* command : starting_) {
    Start(*command);
  }
  starting_.clear();
  if (flush) {
    Start(early_flush_);
  }
  Report();
  const absl::Duration left = PatienceLeft();
  if (left <= absl::ZeroDuration()) {
    Lose(Loss::kSilent);
  } else if (const Loss loss = Step(left); loss != Loss::kNone) {
    Lose(loss);
  }
  Report();
  return true;
}

void NbdExport::Start(NbdCommand& command) {
  const bool nothing = (command.kind == NbdCommand::Kind::kFlush && !facts_.flush) ||
                       (command.kind == NbdCommand::Kind::kTrim && !facts_.trim);
  if (in_flight_.empty()) {
    last_done_ = MonotonicTime::Now();
  }
  command.come_ = 0;
  command.cookie_ = 0;
  command.index_ = in_flight_.size();
  in_flight_.push_back(&command);
  if (handle_ == nullptr || nothing) {
    Complete(command, handle_ == nullptr ? kNbdLost : 0);
    return;
  }
  command.cookie_ = Issue(command, {.callback = OnCompletion, .user_data = &command, .free = nullptr});
  const int error = command.cookie_ < 0 ? nbd_.get_errno() : 0;
  if (const Loss loss = CheckAlive(); loss != Loss::kNone) {
    Lose(loss);
  } else if (command.cookie_ < 0) {
    // Not even begun. Of such a one libnbd does not call back.
    Complete(command, error == 0 ? EIO : error);
  }
}

int64_t NbdExport::Issue(NbdCommand& command, nbd_completion_callback completion) {
  switch (command.kind) {
    case NbdCommand::Kind::kRead:
      // Not aio_pread, which takes it that a server sends all of what it was asked for.
      return nbd_.aio_pread_structured(handle_, command.data, command.bytes, command.offset,
                                       {.callback = OnChunk, .user_data = &command, .free = nullptr}, completion, 0);
    case NbdCommand::Kind::kWrite:
      return nbd_.aio_pwrite(handle_, command.data, command.bytes, command.offset, completion, 0);
    case NbdCommand::Kind::kZero:
      return nbd_.aio_zero(handle_, command.bytes, command.offset, completion, 0);
    case NbdCommand::Kind::kFastZero:
      return nbd_.aio_zero(handle_, command.bytes, command.offset, completion, LIBNBD_CMD_FLAG_FAST_ZERO);
    case NbdCommand::Kind::kTrim:
      return nbd_.aio_trim(handle_, command.bytes, command.offset, completion, 0);
    case NbdCommand::Kind::kFlush:
      break;
  }
  return nbd_.aio_flush(handle_, completion, 0);
}

int NbdExport::OnChunk(void* command, const void* /*data*/, size_t bytes, uint64_t /*offset*/, unsigned status,
                       int* /*error*/) {
  if (status != LIBNBD_READ_ERROR) {
    static_cast<NbdCommand*>(command)->come_ += bytes;
  }
  return 0;
}

// Inside of a call of libnbd, which forbids calls about the same handle.
int NbdExport::OnCompletion(void* command, int* error) {
  auto& over = *static_cast<NbdCommand*>(command);
  const bool lacks = over.kind == NbdCommand::Kind::kRead && over.come_ != over.bytes;
  // No server's error is ENOTCONN: it is libnbd's own, of what was in flight when the connection was lost.
  over.at_->Complete(over, *error == ENOTCONN ? kNbdLost : *error == 0 && lacks ? EPROTO : *error);
  // Not 1, which would free it inside of the call that issues it when that call finds the connection broken, and then
  // reads it once more. Report() retires it.
  return 0;
}

void NbdExport::Complete(NbdCommand& command, int error) {
  FERRITE_CHECK(command.index_ < in_flight_.size() && in_flight_[command.index_] == &command);
  in_flight_.back()->index_ = command.index_;
  in_flight_[command.index_] = in_flight_.back();
  in_flight_.pop_back();
  last_done_ = MonotonicTime::Now();
  if (command.kind == NbdCommand::Kind::kFlush && error != kNbdLost) {
    flush_error_ = flush_error_ == 0 ? error : flush_error_;
    error = flush_error_;
  }
  command.error = error;
  completed_.push_back(&command);
}

void NbdExport::Report() {
  if (completed_.empty()) {
    return;
  }
  for (const NbdCommand* command : completed_) {
    if (handle_ != nullptr && command->cookie_ > 0) {
      (void)nbd_.aio_command_completed(handle_, static_cast<uint64_t>(command->cookie_));
    }
  }
  bool back = false;
  {
    absl::MutexLock lock(&mutex_);
    for (NbdCommand* const command : completed_) {
      if (command == &early_flush_) {
        early_ = Early::kOver;
      } else {
        done_.push_back(command);
        back = true;
      }
    }
  }
  completed_.clear();
  if (back) {
    back_.Signal();
  }
}

NbdExport::Loss NbdExport::CheckAlive() {
  if (nbd_.aio_is_dead(handle_) == 1) {
    return Loss::kError;
  }
  return nbd_.aio_is_closed(handle_) == 1 ? Loss::kClosed : Loss::kNone;
}

NbdExport::Loss NbdExport::Step(absl::Duration limit) {
  pollfd polled[] = {{.fd = wake_.fd(), .events = POLLIN, .revents = 0}, {.fd = -1, .events = 0, .revents = 0}};
  unsigned direction = 0;
  if (handle_ != nullptr) {
    direction = nbd_.aio_get_direction(handle_);
    polled[1].fd = nbd_.aio_get_fd(handle_);
    polled[1].events = static_cast<int16_t>(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                                            ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
    if (polled[1].fd < 0) {
      return Loss::kError;
    }
  }
  PollFor(polled, limit);
  if (polled[0].revents != 0) {
    wake_.Drain();
  }
  const int16_t news = polled[1].revents;
  if (news == 0) {
    return Loss::kNone;
  }
  // As nbd_poll(3): not both, the first may change what the second is for.
  const int broken = POLLHUP | POLLERR | POLLNVAL;
  int result = -1;
  if ((news & (POLLIN | broken)) != 0 && (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
    result = nbd_.aio_notify_read(handle_);
  } else if ((news & (POLLOUT | broken)) != 0 && (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
    result = nbd_.aio_notify_write(handle_);
  } else {
    return Loss::kBroken;
  }
  return result != 0 ? Loss::kError : CheckAlive();
}

void NbdExport::Lose(Loss loss) {
  if (handle_ == nullptr) {
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    lost_ = absl::UnavailableError("");
    IfThereIsMemory([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      lost_ = absl::UnavailableError(absl::StrCat("the connection to the NBD server is lost: ", Words(loss).message()));
    });
  }
  Close();
}

void NbdExport::Close() {
  if (handle_ != nullptr) {
    nbd_.close(std::exchange(handle_, nullptr));
  }
  // What libnbd has not called back about it does not know any more, nor the memory of it.
  while (!in_flight_.empty()) {
    Complete(*in_flight_.back(), kNbdLost);
  }
}

}  // namespace ferrite
