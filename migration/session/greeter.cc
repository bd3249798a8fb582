#include "migration/session/greeter.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "migration/fault/userfault.h"
#include "migration/session/door.h"
#include "migration/wire/version.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/status.h"

namespace ferrite::migration {

// One that connected as a source; lives on with a connection that was chosen. Threads: the greeter's; OnMessage() and
// OnFailure() on that of the connection.
class Greeter::Caller : public std::enable_shared_from_this<Caller> {
 public:
  Caller(std::string who, const MoveId& id, MonotonicTime deadline, std::function<void()> on_news,
         std::function<void(const absl::Status&)> on_lost)
      : who_(std::move(who)), deadline_(deadline), on_news_(std::move(on_news)), on_lost_(std::move(on_lost)) {
    terms_.id = id;
  }

  void Open(std::unique_ptr<Stream> stream, absl::Duration patience) {
    const absl::MutexLock lock(&mutex_);
    peer_ = std::make_unique<ControlPeer>(
        std::move(stream),
        ControlPeer::Options{.thread_name = "mig-dst-ctl",
                             .peer_name = "the source",
                             .silence = patience,
                             .on_message = [self = shared_from_this()] { return self->OnMessage(); }},
        [self = shared_from_this()](const absl::Status& why) { self->OnFailure(why); });
  }
  // Ends the connection.
  void Close() {
    std::unique_ptr<ControlPeer> peer;
    const absl::MutexLock lock(&mutex_);
    // Its thread is waited for without the lock.
    peer = std::move(peer_);
  }

  const std::string& who() const { return who_; }
  MonotonicTime deadline() const { return deadline_; }
  absl::Status failure() {
    const absl::MutexLock lock(&mutex_);
    return peer_->failure();
  }
  // Whether it was welcomed, and ended the move itself.
  bool ended() {
    const absl::MutexLock lock(&mutex_);
    return welcomed_ && peer_->said_why();
  }
  bool has_machine() {
    const absl::MutexLock lock(&mutex_);
    return machine_.has_value();
  }
  void SendLastWords(const absl::Status& why) {
    // Not under the lock: the thread of the connection may be writing under it.
    ControlPeer* peer = nullptr;
    {
      const absl::MutexLock lock(&mutex_);
      peer = peer_.get();
    }
    peer->SendLastWords(why);
  }
  Chosen Take() {
    const absl::MutexLock lock(&mutex_);
    chosen_ = true;
    if (const absl::Status lost = peer_->failure(); !lost.ok()) {
      // Perhaps before it was chosen.
      on_lost_(lost);
    }
    return {.peer = std::move(peer_), .machine = *std::move(machine_), .terms = terms_};
  }

 private:
  absl::Status OnMessage() {
    // Not before Open() has returned.
    const absl::MutexLock lock(&mutex_);
    const absl::Status status = Answer();
    if (!status.ok() && peer_ != nullptr) {
      peer_->SendLastWords(status);
    }
    return status;
  }
  void OnFailure(const absl::Status& why) { chosen_ ? on_lost_(why) : on_news_(); }
  absl::Status Answer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (peer_ == nullptr || machine_.has_value()) {
      // It goes, or what follows MACHINE is for whoever takes it.
      return absl::OkStatus();
    }
    FERRITE_ASSIGN_OR_RETURN(
        ControlMessage message,
        peer_->Expect(welcomed_ ? stream::Control::MACHINE : stream::Control::HELLO, absl::ZeroDuration()));
    if (!welcomed_) {
      welcomed_ = true;
      return Welcome(message);
    }
    machine_ = std::move(message);
    on_news_();
    return absl::OkStatus();
  }
  absl::Status Welcome(const ControlMessage& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    uint16_t version = 0;
    FERRITE_RETURN_IF_ERROR(message.Read([&](stream::Control::Reader control) -> absl::Status {
      mutex_.AssertHeld();
      const auto hello = control.getHello();
      const auto id = hello.getMoveId();
      if (!std::equal(id.begin(), id.end(), terms_.id.begin(), terms_.id.end())) {
        return absl::InvalidArgumentError("HELLO: the move's id is not the connection's");
      }
      FERRITE_ASSIGN_OR_RETURN(
          version, ChooseVersion(kOurVersions, {.lowest = hello.getLowestVersion(), .newest = hello.getVersion()}));
      terms_.features = hello.getFeatures() & kOurFeatures;
      if (const auto kernel = Userfault::Probe(); !kernel.ok() || !kernel->poison) {
        terms_.features &= ~uint64_t{kFeaturePoison};
      }
      terms_.page_channels = hello.getPageChannels();
      terms_.urgent_channels = hello.getUrgentChannels();
      if (terms_.page_channels < 1 || terms_.page_channels > kMaxChannels || terms_.urgent_channels < 1 ||
          terms_.urgent_channels > kMaxChannels) {
        return absl::InvalidArgumentError(
            absl::StrCat("HELLO: ", terms_.page_channels, " page and ", terms_.urgent_channels, " urgent channels"));
      }
      return absl::OkStatus();
    }));
    return peer_->Send([&](stream::Control::Builder control) {
      mutex_.AssertHeld();
      auto welcome = control.initWelcome();
      welcome.setVersion(version);
      welcome.setFeatures(terms_.features);
      welcome.setSoftware("ferrite");
    });
  }

  const std::string who_;
  const MonotonicTime deadline_;
  const std::function<void()> on_news_;
  const std::function<void(const absl::Status&)> on_lost_;
  std::atomic<bool> chosen_{false};
  absl::Mutex mutex_;
  bool welcomed_ ABSL_GUARDED_BY(mutex_) = false;
  Terms terms_ ABSL_GUARDED_BY(mutex_);
  std::optional<ControlMessage> machine_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<ControlPeer> peer_ ABSL_GUARDED_BY(mutex_);
};

Greeter::Greeter(Options options, DropLog& drops, std::function<void()> on_news,
                 std::function<void(const absl::Status&)> on_lost)
    : options_(options), drops_(drops), on_news_(std::move(on_news)), on_lost_(std::move(on_lost)) {}

Greeter::~Greeter() {
  while (!callers_.empty()) {
    Drop(callers_.begin(), absl::UnavailableError(kBusy));
  }
}

void Greeter::Admit(std::unique_ptr<Stream> stream, const MoveId& id) {
  if (callers_.size() == options_.most) {
    Drop(callers_.begin(), absl::ResourceExhaustedError("too many others came before you said what you bring"));
  }
  const auto caller =
      std::make_shared<Caller>(stream->peer(), id, MonotonicTime::Now() + options_.patience, on_news_, on_lost_);
  callers_.push_back(caller);
  caller->Open(std::move(stream), options_.patience);
}

absl::StatusOr<std::optional<Greeter::Chosen>> Greeter::Look() {
  for (Place place = callers_.begin(); place != callers_.end();) {
    const Place now = place++;
    const std::shared_ptr<Caller> caller = *now;
    if (caller->has_machine()) {
      callers_.erase(now);
      return caller->Take();
    }
    if (absl::Status failure = caller->failure(); !failure.ok()) {
      if (caller->ended()) {
        return failure;
      }
      Drop(now, failure);
    } else if (MonotonicTime::Now() >= caller->deadline()) {
      Drop(now,
           absl::DeadlineExceededError(absl::StrCat("the source lives, but did not say what machine it brings within ",
                                                    absl::FormatDuration(options_.patience), " (--patience)")));
    }
  }
  return std::nullopt;
}

MonotonicTime Greeter::deadline() const {
  return callers_.empty() ? MonotonicTime::InfiniteFuture() : callers_.front()->deadline();
}

void Greeter::Drop(Place place, const absl::Status& why) {
  const std::shared_ptr<Caller> caller = *place;
  callers_.erase(place);
  drops_.Log(caller->who(), why.message());
  caller->SendLastWords(why);
  caller->Close();
}

}  // namespace ferrite::migration
