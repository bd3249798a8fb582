#include "migration/channel/pair/pair_rendezvous.h"

#include <poll.h>

#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "migration/channel/pair/pair_control.h"
#include "migration/channel/pair/pair_pages.h"
#include "migration/protocol/proof.h"
#include "migration/secret/move_secret.h"

namespace ferrite::migration {
namespace {

constexpr char kHere[] = "this process";

// What both directions of a channel are made of; which of them it uses is decided by its role.
struct Pipes {
  std::shared_ptr<MessagePipe> to_destination;
  std::shared_ptr<MessagePipe> to_source;
  std::shared_ptr<FramePipe> frames;
  std::shared_ptr<RequestPipe> requests;
};

class PairIncoming final : public IncomingChannel {
 public:
  PairIncoming(const Preamble& preamble, const std::optional<ChannelProof>& proof, Pipes pipes)
      : preamble_(preamble), proof_(proof), pipes_(std::move(pipes)) {}
  ~PairIncoming() override {
    // What nobody has taken is closed.
    if (pipes_.to_source != nullptr) {
      pipes_.to_source->Close();
      pipes_.to_destination->CloseAndDrop();
    }
    if (pipes_.frames != nullptr) {
      pipes_.frames->CloseAndDrop();
      pipes_.requests->Close();
    }
  }

  absl::StatusOr<Preamble> preamble() const override { return preamble_; }
  std::optional<ChannelProof> proof() const override { return proof_; }
  const std::string& peer() const override { return peer_; }
  const std::string& origin() const override { return peer_; }
  std::unique_ptr<ControlChannel> TakeControl(absl::Duration patience) override {
    auto channel = std::make_unique<PairControlChannel>(std::move(pipes_.to_destination), std::move(pipes_.to_source),
                                                        std::string(kHere));
    channel->SetPatience(patience);
    return channel;
  }
  std::unique_ptr<PageFeed> TakePages(absl::Duration patience) override { return TakeUrgent(patience); }
  std::unique_ptr<UrgentFeed> TakeUrgent(absl::Duration) override {
    return std::make_unique<PairPageFeed>(std::move(pipes_.frames), std::move(pipes_.requests), std::string(kHere));
  }

 private:
  const Preamble preamble_;
  const std::optional<ChannelProof> proof_;
  const std::string peer_ = kHere;
  Pipes pipes_;
};

// Where channels wait for the destination. Threads: any.
class Meeting {
 public:
  Meeting(const Clock& clock, EventFd news) : clock_(clock), news_(std::move(news)) {}

  absl::Status Bring(std::unique_ptr<IncomingChannel> channel) {
    const absl::MutexLock lock(&mutex_);
    if (over_) {
      return absl::UnavailableError("nobody takes channels here any more");
    }
    waiting_.push_back(std::move(channel));
    news_.Signal();
    return absl::OkStatus();
  }
  void PutBack(std::unique_ptr<IncomingChannel> channel) {
    const absl::MutexLock lock(&mutex_);
    waiting_.push_front(std::move(channel));
    news_.Signal();
  }
  // Null when none waits.
  std::unique_ptr<IncomingChannel> Take() {
    const absl::MutexLock lock(&mutex_);
    if (waiting_.empty()) {
      (void)news_.Drain();
      return nullptr;
    }
    std::unique_ptr<IncomingChannel> first = std::move(waiting_.front());
    waiting_.pop_front();
    return first;
  }
  void End() {
    std::deque<std::unique_ptr<IncomingChannel>> left;
    const absl::MutexLock lock(&mutex_);
    over_ = true;
    left.swap(waiting_);
  }
  const EventFd& news() const { return news_; }
  const Clock& clock() const { return clock_; }

 private:
  const Clock& clock_;
  const EventFd news_;  // one waits
  absl::Mutex mutex_;
  std::deque<std::unique_ptr<IncomingChannel>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
};

class PairOpener final : public ChannelOpener {
 public:
  explicit PairOpener(std::shared_ptr<Meeting> meeting) : meeting_(std::move(meeting)) {}

  absl::StatusOr<std::unique_ptr<ControlChannel>> OpenControl(const Preamble& preamble, Terms& terms) override {
    Pipes pipes;
    FERRITE_ASSIGN_OR_RETURN(pipes.to_destination, MessagePipe::Create(meeting_->clock()));
    FERRITE_ASSIGN_OR_RETURN(pipes.to_source, MessagePipe::Create(meeting_->clock()));
    auto channel = std::make_unique<PairControlChannel>(pipes.to_source, pipes.to_destination, std::string(kHere));
    channel->SetPatience(terms.patience);
    FERRITE_RETURN_IF_ERROR(Bring(preamble, std::move(pipes), terms));
    return channel;
  }
  absl::StatusOr<std::unique_ptr<PageSink>> OpenPages(const Preamble& preamble, Terms& terms) override {
    return OpenUrgent(preamble, terms);
  }
  absl::StatusOr<std::unique_ptr<UrgentSink>> OpenUrgent(const Preamble& preamble, Terms& terms) override {
    Pipes pipes;
    FERRITE_ASSIGN_OR_RETURN(pipes.frames, FramePipe::Create(meeting_->clock()));
    FERRITE_ASSIGN_OR_RETURN(pipes.requests, RequestPipe::Create(meeting_->clock()));
    auto channel = std::make_unique<PairPageSink>(pipes.frames, pipes.requests, std::string(kHere));
    FERRITE_RETURN_IF_ERROR(Bring(preamble, std::move(pipes), terms));
    return channel;
  }
  std::string where() const override { return kHere; }

 private:
  absl::Status Bring(const Preamble& preamble, Pipes pipes, Terms& terms) {
    std::optional<ChannelProof> proof;
    if (HasProof(preamble.role)) {
      // Fresh as ever: in one process it need not come from the other side.
      FERRITE_ASSIGN_OR_RETURN(const Nonce challenge, MakeNonce());
      FERRITE_ASSIGN_OR_RETURN(proof, terms.prove(preamble, challenge));
    }
    FERRITE_RETURN_IF_ERROR(meeting_->Bring(std::make_unique<PairIncoming>(preamble, proof, std::move(pipes))));
    terms.reached = true;
    return absl::OkStatus();
  }

  const std::shared_ptr<Meeting> meeting_;
};

class PairAcceptor final : public ChannelAcceptor {
 public:
  explicit PairAcceptor(std::shared_ptr<Meeting> meeting) : meeting_(std::move(meeting)) {}
  ~PairAcceptor() override { meeting_->End(); }

  absl::StatusOr<std::unique_ptr<IncomingChannel>> Next(const EventFd& cancel, MonotonicTime deadline) override {
    while (true) {
      if (std::unique_ptr<IncomingChannel> channel = meeting_->Take(); channel != nullptr) {
        return channel;
      }
      pollfd polled[] = {{.fd = cancel.fd(), .events = POLLIN, .revents = 0},
                         {.fd = meeting_->news().fd(), .events = POLLIN, .revents = 0}};
      (void)meeting_->clock().PollFor(polled, deadline - meeting_->clock().Now());
      if (polled[0].revents != 0) {
        return absl::CancelledError("take channels in this process: cancelled");
      }
      if (polled[1].revents == 0 && meeting_->clock().Now() >= deadline) {
        return absl::DeadlineExceededError("take channels in this process: nobody came in time");
      }
    }
  }
  void PutBack(std::unique_ptr<IncomingChannel> channel) override { meeting_->PutBack(std::move(channel)); }

 private:
  const std::shared_ptr<Meeting> meeting_;
};

}  // namespace

absl::StatusOr<PairRendezvous> MakePair(const Clock& clock) {
  FERRITE_ASSIGN_OR_RETURN(EventFd news, EventFd::Create());
  const auto meeting = std::make_shared<Meeting>(clock, std::move(news));
  return PairRendezvous{.opener = std::make_shared<PairOpener>(meeting),
                        .acceptor = std::make_unique<PairAcceptor>(meeting)};
}

}  // namespace ferrite::migration
