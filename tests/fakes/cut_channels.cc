#include "tests/fakes/cut_channels.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "migration/channel/control_channel.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/page_sink.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/proof.h"

namespace ferrite::migration {
namespace {

absl::Status CutHere() { return absl::UnavailableError("the test closed the channel"); }

class CutControl final : public ControlChannel {
 public:
  CutControl(std::unique_ptr<ControlChannel> channel, CutPlan& plan, bool at_source)
      : channel_(std::move(channel)), plan_(plan), at_source_(at_source) {}

  absl::Status Send(const Message& message) override {
    const std::string name(MessageName(message));
    if (plan_.Cuts(at_source_, name, /*after=*/false)) {
      Shutdown();
      return CutHere();
    }
    if (at_source_ && plan_.on_message) {
      plan_.on_message(message);
    }
    const absl::Status status = channel_->Send(Altered(message));
    if (plan_.Cuts(at_source_, name, /*after=*/true)) {
      Shutdown();
    }
    return status;
  }
  void SendAtOnce(const Message& message) override { channel_->SendAtOnce(message); }
  bool HasRoom() const override { return channel_->HasRoom(); }
  absl::StatusOr<Received> Next(absl::Duration limit) override {
    absl::StatusOr<Received> next = channel_->Next(limit);
    if (!next.ok() || !next->message.ok()) {
      return next;
    }
    const std::string name(MessageName(*next->message));
    if (plan_.Cuts(at_source_, name, /*after=*/false)) {
      Shutdown();
      return CutHere();
    }
    if (plan_.Cuts(at_source_, name, /*after=*/true)) {
      Shutdown();
    }
    return next;
  }
  void SetMostBytes(uint32_t bytes) override { channel_->SetMostBytes(bytes); }
  void SetPatience(absl::Duration patience) override { channel_->SetPatience(patience); }
  void SetSendPatience(absl::Duration patience) override { channel_->SetSendPatience(patience); }
  void Shutdown() override { channel_->Shutdown(); }
  const std::string& peer() const override { return channel_->peer(); }
  absl::StatusOr<Nonce> Bind(const Nonce& nonce) const override { return channel_->Bind(nonce); }
  std::string parties() const override { return channel_->parties(); }

 private:
  Message Altered(Message message) const {
    if (auto* const hello = std::get_if<message::Hello>(&message); hello != nullptr) {
      hello->features &= plan_.features;
    }
    return message;
  }

  const std::unique_ptr<ControlChannel> channel_;
  CutPlan& plan_;
  const bool at_source_;
};

// Of either kind; a page channel is asked for nothing.
class CutSink final : public UrgentSink {
 public:
  CutSink(std::unique_ptr<PageSink> sink, CutPlan& plan)
      : urgent_(nullptr), role_("page "), sink_(std::move(sink)), plan_(plan) {}
  CutSink(std::unique_ptr<UrgentSink> sink, CutPlan& plan)
      : urgent_(sink.get()), role_("urgent "), sink_(std::move(sink)), plan_(plan) {}

  absl::Status Flush() override { return sink_->Flush(); }
  absl::Status EndRounds() override {
    if (plan_.on_frame) {
      plan_.on_frame({.type = PageFrameType::kEndRounds});
    }
    return sink_->EndRounds();
  }
  uint64_t gathered_bytes() const override { return sink_->gathered_bytes(); }
  bool full() const override { return sink_->full(); }
  void SetFinder(Finder finder) override { sink_->SetFinder(std::move(finder)); }
  void PreferLatency() override { sink_->PreferLatency(); }
  absl::Status AwaitPlaced(uint64_t bytes) override { return sink_->AwaitPlaced(bytes); }
  absl::Duration QueueDelay() const override { return sink_->QueueDelay(); }
  void Shutdown() override { sink_->Shutdown(); }
  const std::string& peer() const override { return sink_->peer(); }
  absl::StatusOr<PageRange> NextRequest() override {
    absl::StatusOr<PageRange> request = urgent_->NextRequest();
    if (request.ok() && Cuts(PageFrameType::kRequest, /*after=*/false)) {
      Shutdown();
      return CutHere();
    }
    if (request.ok() && Cuts(PageFrameType::kRequest, /*after=*/true)) {
      Shutdown();
    }
    return request;
  }
  bool HasRequest() override { return urgent_ != nullptr && urgent_->HasRequest(); }

 private:
  absl::Status Add(const PageHeader& header, std::span<const uint8_t> bytes) override {
    if (Cuts(header.type, /*after=*/false)) {
      Shutdown();
      return CutHere();
    }
    if (plan_.on_frame) {
      plan_.on_frame(header);
    }
    FERRITE_RETURN_IF_ERROR(Put(header, bytes));
    if (Cuts(header.type, /*after=*/true)) {
      const absl::Status status = sink_->Flush();
      Shutdown();
      return status;
    }
    return absl::OkStatus();
  }
  absl::Status Put(const PageHeader& header, std::span<const uint8_t> bytes) {
    const PageRange run{.region = header.region, .first = header.first_page, .count = header.count};
    switch (header.type) {
      case PageFrameType::kPages:
        return sink_->Pages(run, bytes);
      case PageFrameType::kZero:
        return sink_->Zero(run);
      case PageFrameType::kPoison:
        return sink_->Lost(run);
      case PageFrameType::kRound:
        return sink_->EndRound(header.count);
      default:
        break;
    }
    return absl::InternalError("a source that asks");
  }
  bool Cuts(PageFrameType type, bool after) {
    return plan_.Cuts(/*at_source=*/true, absl::StrCat(role_, FrameName(type)), after);
  }

  UrgentSink* const urgent_;
  const std::string role_;
  const std::unique_ptr<PageSink> sink_;
  CutPlan& plan_;
};

class CutFeed final : public UrgentFeed {
 public:
  CutFeed(std::unique_ptr<PageFeed> feed, CutPlan& plan)
      : urgent_(nullptr), role_("page "), feed_(std::move(feed)), plan_(plan) {}
  CutFeed(std::unique_ptr<UrgentFeed> feed, CutPlan& plan)
      : urgent_(feed.get()), role_("urgent "), feed_(std::move(feed)), plan_(plan) {}

  absl::StatusOr<PageHeader> Next(PageHandler& handler) override {
    absl::StatusOr<PageHeader> header = feed_->Next(handler);
    // It is in place already: before is after the one before it.
    if (header.ok() && Cuts(header->type, /*after=*/false)) {
      Shutdown();
      return CutHere();
    }
    if (header.ok() && Cuts(header->type, /*after=*/true)) {
      Shutdown();
    }
    return header;
  }
  absl::Status Join(WaitSet& set, uint32_t tag) override { return feed_->Join(set, tag); }
  void PreferLatency() override { feed_->PreferLatency(); }
  void Shutdown() override { feed_->Shutdown(); }
  const std::string& peer() const override { return feed_->peer(); }
  absl::Status Ask(std::span<const PageRange> runs) override {
    if (!runs.empty() && Cuts(PageFrameType::kRequest, /*after=*/false)) {
      Shutdown();
      return CutHere();
    }
    FERRITE_RETURN_IF_ERROR(urgent_->Ask(runs));
    if (!runs.empty() && Cuts(PageFrameType::kRequest, /*after=*/true)) {
      Shutdown();
    }
    return absl::OkStatus();
  }

 private:
  bool Cuts(PageFrameType type, bool after) {
    return plan_.Cuts(/*at_source=*/false, absl::StrCat(role_, FrameName(type)), after);
  }

  UrgentFeed* const urgent_;
  const std::string role_;
  const std::unique_ptr<PageFeed> feed_;
  CutPlan& plan_;
};

class CutOpener final : public ChannelOpener {
 public:
  CutOpener(std::shared_ptr<ChannelOpener> opener, CutPlan& plan) : opener_(std::move(opener)), plan_(plan) {}

  absl::StatusOr<std::unique_ptr<ControlChannel>> OpenControl(const Preamble& preamble, Terms& terms) override {
    FERRITE_ASSIGN_OR_RETURN(auto channel, opener_->OpenControl(preamble, terms));
    return std::make_unique<CutControl>(std::move(channel), plan_, /*at_source=*/true);
  }
  absl::StatusOr<std::unique_ptr<PageSink>> OpenPages(const Preamble& preamble, Terms& terms) override {
    FERRITE_ASSIGN_OR_RETURN(auto sink, opener_->OpenPages(preamble, terms));
    return std::make_unique<CutSink>(std::move(sink), plan_);
  }
  absl::StatusOr<std::unique_ptr<UrgentSink>> OpenUrgent(const Preamble& preamble, Terms& terms) override {
    FERRITE_ASSIGN_OR_RETURN(auto sink, opener_->OpenUrgent(preamble, terms));
    return std::make_unique<CutSink>(std::move(sink), plan_);
  }
  void SetMemory(std::vector<std::span<uint8_t>> regions) override { opener_->SetMemory(std::move(regions)); }
  std::string where() const override { return opener_->where(); }

 private:
  const std::shared_ptr<ChannelOpener> opener_;
  CutPlan& plan_;
};

class CutIncoming final : public IncomingChannel {
 public:
  CutIncoming(std::unique_ptr<IncomingChannel> channel, CutPlan& plan) : channel_(std::move(channel)), plan_(plan) {}

  absl::StatusOr<Preamble> preamble() const override { return channel_->preamble(); }
  std::optional<ChannelProof> proof() const override { return channel_->proof(); }
  const std::string& peer() const override { return channel_->peer(); }
  const std::string& origin() const override { return channel_->origin(); }
  std::unique_ptr<ControlChannel> TakeControl(absl::Duration patience) override {
    return std::make_unique<CutControl>(channel_->TakeControl(patience), plan_, /*at_source=*/false);
  }
  std::unique_ptr<PageFeed> TakePages(absl::Duration patience) override {
    return std::make_unique<CutFeed>(channel_->TakePages(patience), plan_);
  }
  std::unique_ptr<UrgentFeed> TakeUrgent(absl::Duration patience) override {
    return std::make_unique<CutFeed>(channel_->TakeUrgent(patience), plan_);
  }
  std::unique_ptr<IncomingChannel> Unwrap() { return std::move(channel_); }

 private:
  std::unique_ptr<IncomingChannel> channel_;
  CutPlan& plan_;
};

class CutAcceptor final : public ChannelAcceptor {
 public:
  CutAcceptor(std::unique_ptr<ChannelAcceptor> acceptor, CutPlan& plan) : acceptor_(std::move(acceptor)), plan_(plan) {}

  absl::StatusOr<std::unique_ptr<IncomingChannel>> Next(const EventFd& cancel, MonotonicTime deadline) override {
    FERRITE_ASSIGN_OR_RETURN(auto channel, acceptor_->Next(cancel, deadline));
    return std::make_unique<CutIncoming>(std::move(channel), plan_);
  }
  void PutBack(std::unique_ptr<IncomingChannel> channel) override {
    acceptor_->PutBack(static_cast<CutIncoming&>(*channel).Unwrap());
  }
  absl::StatusOr<std::shared_ptr<OutsideWriters>> SetMemory(std::vector<std::span<uint8_t>> regions) override {
    return acceptor_->SetMemory(std::move(regions));
  }
  void KeepNothing() override { acceptor_->KeepNothing(); }
  void SetLetGo(std::function<bool()> let_go) override { acceptor_->SetLetGo(std::move(let_go)); }
  void SetOnDropped(std::function<void(const std::string& peer, absl::string_view why)> on_dropped) override {
    acceptor_->SetOnDropped(std::move(on_dropped));
  }

 private:
  const std::unique_ptr<ChannelAcceptor> acceptor_;
  CutPlan& plan_;
};

}  // namespace

absl::string_view FrameName(PageFrameType type) {
  switch (type) {
    case PageFrameType::kPages:
      return "PAGES";
    case PageFrameType::kZero:
      return "ZERO";
    case PageFrameType::kPoison:
      return "POISON";
    case PageFrameType::kRound:
      return "ROUND";
    case PageFrameType::kRequest:
      return "REQUEST";
    default:
      break;
  }
  return "";
}

std::ostream& operator<<(std::ostream& out, const Cut& cut) {
  return out << (cut.at_source ? "the source's end, " : "the destination's end, ") << (cut.after ? "after " : "before ")
             << cut.what;
}

bool CutPlan::Cuts(bool at_source, const std::string& what, bool after) {
  const Cut here{.at_source = at_source, .what = what, .after = after};
  const absl::MutexLock lock(&mutex_);
  seen_.insert(here);
  if (cuts_.empty() || cuts_.front() != here) {
    return false;
  }
  cuts_.pop_front();
  return true;
}

PairRendezvous WithCuts(PairRendezvous place, CutPlan& plan) {
  return {.opener = std::make_shared<CutOpener>(std::move(place.opener), plan),
          .acceptor = std::make_unique<CutAcceptor>(std::move(place.acceptor), plan)};
}

}  // namespace ferrite::migration
