#include "migration/session/greeter.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/channel/crowd.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"

namespace ferrite::migration {

// One that connected as a source; lives on with a connection that was chosen. Threads: the greeter's; OnMessage() and
// OnFailure() on that of the connection. The greeter's waits for no answer that is being sent.
class Greeter::Caller : public std::enable_shared_from_this<Caller> {
 public:
  Caller(std::string who, std::string origin, const MoveId& id, MonotonicTime deadline, std::function<void()> on_news,
         std::function<void(const absl::Status&)> on_lost)
      : who_(std::move(who)),
        origin_(std::move(origin)),
        deadline_(deadline),
        on_news_(std::move(on_news)),
        on_lost_(std::move(on_lost)) {
    terms_.id = id;
  }

  absl::Status Open(const Host& host, std::unique_ptr<ControlChannel> channel, absl::Duration patience) {
    const absl::MutexLock lock(&mutex_);
    FERRITE_ASSIGN_OR_RETURN(
        peer_, ControlPeer::Create(
                   host, std::move(channel),
                   ControlPeer::Options{.thread_name = "mig-dst-ctl",
                                        .peer_name = "the source",
                                        .silence = patience,
                                        .most_bytes = kMaxGreetingBytes,
                                        .on_message = [self = shared_from_this()] { return self->OnMessage(); }},
                   [self = shared_from_this()](const absl::Status& why) { self->OnFailure(why); }));
    return absl::OkStatus();
  }
  // Ends the connection.
  void Close() {
    std::unique_ptr<ControlPeer> peer;
    const absl::MutexLock lock(&mutex_);
    // Its thread is waited for without the lock.
    peer = std::move(peer_);
  }

  const std::string& who() const { return who_; }
  const std::string& origin() const { return origin_; }
  MonotonicTime deadline() const { return deadline_; }
  bool said_hello() const { return said_hello_; }
  absl::Status failure() {
    const absl::MutexLock lock(&mutex_);
    return failure_;
  }
  // Tells it why, unless there was a last word already, waits for nothing, and ends the connection.
  void HangUp(const absl::Status& why) {
    if (!had_last_word_.exchange(true)) {
      peer()->HangUp(why);
    }
    Close();
  }
  // Nothing before it has said what machine it brings, or when it is gone. What is lost afterwards is `on_lost`'s.
  std::optional<Chosen> Take() {
    const absl::MutexLock lock(&mutex_);
    if (!offer_.has_value() || !failure_.ok()) {
      return std::nullopt;
    }
    chosen_ = true;
    return Chosen{.who = who_,
                  .peer = std::move(peer_),
                  .machine = std::move(offer_->machine),
                  .terms = offer_->terms,
                  .credentials = std::move(offer_->credentials)};
  }

 private:
  struct Offer {
    MachineSpec machine;
    Terms terms;
    Credentials credentials;
  };

  // Not before Open() has returned. It outlives its own thread, which may use it without the lock.
  ControlPeer* peer() {
    const absl::MutexLock lock(&mutex_);
    return peer_.get();
  }
  absl::Status OnMessage() {
    ControlPeer* const peer = this->peer();
    if (peer == nullptr || said_all_) {
      // It goes, or what follows MACHINE is for whoever takes it.
      return absl::OkStatus();
    }
    return Answer(*peer);
  }
  void OnFailure(const absl::Status& why) {
    // Its connection is about to be closed.
    const bool had_last_word = had_last_word_.exchange(true);
    if (ControlPeer* const peer = this->peer(); peer != nullptr && !had_last_word && !peer->said_why()) {
      peer->SendLastWords(why);
    }
    bool chosen = false;
    {
      const absl::MutexLock lock(&mutex_);
      failure_ = why;
      chosen = chosen_;
    }
    chosen ? on_lost_(why) : on_news_();
  }
  absl::Status Answer(ControlPeer& peer) {
    if (!said_hello_) {
      FERRITE_ASSIGN_OR_RETURN(const message::Hello hello, peer.Expect<message::Hello>(absl::ZeroDuration()));
      said_hello_ = true;
      return Welcome(peer, hello);
    }
    FERRITE_ASSIGN_OR_RETURN(message::Machine machine, peer.Expect<message::Machine>(absl::ZeroDuration()));
    said_all_ = true;
    FERRITE_RETURN_IF_ERROR(
        Annotate(credentials_.Check(Claim::kMachine, /*epoch=*/0, machine.digest), message::Machine::kName));
    const absl::MutexLock lock(&mutex_);
    offer_ = Offer{.machine = std::move(machine.spec), .terms = terms_, .credentials = std::move(credentials_)};
    // Whoever takes it may have no use for news any more: not before they were told.
    on_news_();
    return absl::OkStatus();
  }
  absl::Status Welcome(ControlPeer& peer, const message::Hello& hello) {
    if (hello.move_id != terms_.id) {
      return absl::InvalidArgumentError("HELLO: the move's id is not the connection's");
    }
    FERRITE_ASSIGN_OR_RETURN(const uint16_t version, ChooseVersion(kOurVersions, hello.versions));
    terms_.features = hello.features & kOurFeatures;
    terms_.page_channels = hello.page_channels;
    terms_.urgent_channels = hello.urgent_channels;
    if (terms_.page_channels < 1 || terms_.page_channels > kMaxChannels || terms_.urgent_channels < 1 ||
        terms_.urgent_channels > kMaxChannels) {
      return absl::InvalidArgumentError(
          absl::StrCat("HELLO: ", terms_.page_channels, " page and ", terms_.urgent_channels, " urgent channels"));
    }
    FERRITE_ASSIGN_OR_RETURN(const KeyExchange exchange, KeyExchange::Create(KeyExchange::Side::kDestination));
    FERRITE_ASSIGN_OR_RETURN(MoveSecret secret, exchange.Agree(hello.key, hello.nonce, terms_.id));
    FERRITE_ASSIGN_OR_RETURN(const Nonce bound, peer.Bind(exchange.nonce()));
    credentials_ = Credentials(std::move(secret), hello.nonce, bound, peer.parties());
    return peer.Send(message::Welcome{
        .version = version, .features = terms_.features, .key = exchange.key(), .nonce = exchange.nonce()});
  }

  const std::string who_;
  const std::string origin_;
  const MonotonicTime deadline_;
  const std::function<void()> on_news_;
  const std::function<void(const absl::Status&)> on_lost_;
  std::atomic<bool> said_hello_{false};
  std::atomic<bool> had_last_word_{false};  // this side's or, when it said why, its own
  // Of the connection's thread.
  bool said_all_ = false;
  Terms terms_;
  Credentials credentials_;
  absl::Mutex mutex_;
  bool chosen_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::optional<Offer> offer_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<ControlPeer> peer_ ABSL_GUARDED_BY(mutex_);
};

Greeter::Greeter(Options options, const Host& host, DropLog& drops, std::function<void()> on_news,
                 std::function<void(const absl::Status&)> on_lost)
    : options_(options), host_(host), drops_(drops), on_news_(std::move(on_news)), on_lost_(std::move(on_lost)) {}

Greeter::~Greeter() {
  UntilThereIsMemory([this] { SendAway(absl::CancelledError("the destination waits for nobody any more")); });
}

void Greeter::SendAway(const absl::Status& why) {
  while (!callers_.empty()) {
    Drop(callers_.begin(), why);
  }
}

void Greeter::Admit(std::unique_ptr<ControlChannel> channel, std::string origin, const MoveId& id) {
  if (callers_.size() >= options_.most) {
    MakeRoom(origin, "too many others came before you said what machine you bring");
  }
  const auto caller = std::make_shared<Caller>(channel->peer(), std::move(origin), id,
                                               host_.clock.Now() + options_.patience, on_news_, on_lost_);
  if (const absl::Status opened = caller->Open(host_, std::move(channel), options_.patience); !opened.ok()) {
    drops_.Log(caller->who(), opened.message());
    return;
  }
  callers_.push_back(caller);
}

bool Greeter::LetGo() {
  if (callers_.empty()) {
    return false;
  }
  MakeRoom("", "no more files can be open at the destination, and others came");
  return true;
}

void Greeter::MakeRoom(absl::string_view origin, absl::string_view why) {
  std::vector<Present> here;
  for (const auto& caller : callers_) {
    here.push_back({.origin = caller->origin(), .silent = !caller->said_hello()});
  }
  Drop(std::next(callers_.begin(), static_cast<ptrdiff_t>(WhoMakesRoom(here, origin))),
       absl::ResourceExhaustedError(why));
}

std::optional<Greeter::Chosen> Greeter::Look() {
  for (Place place = callers_.begin(); place != callers_.end();) {
    const Place now = place++;
    const std::shared_ptr<Caller> caller = *now;
    if (std::optional<Chosen> chosen = caller->Take(); chosen.has_value()) {
      callers_.erase(now);
      return chosen;
    }
    if (const absl::Status failure = caller->failure(); !failure.ok()) {
      Drop(now, failure);
    } else if (host_.clock.Now() >= caller->deadline()) {
      Drop(now,
           absl::DeadlineExceededError(absl::StrCat("the source lives, but did not say what machine it brings within ",
                                                    absl::FormatDuration(options_.patience))));
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
  // Also when there is no memory for a word about it.
  const absl::Cleanup close = [&] { caller->Close(); };
  drops_.Log(caller->who(), why.message());
  caller->HangUp(why);
}

}  // namespace ferrite::migration
