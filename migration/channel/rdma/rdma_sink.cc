#include "migration/channel/rdma/rdma_sink.h"

#include <sys/mman.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "memory/guest_address.h"
#include "migration/protocol/lanes.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<RdmaPageSink>> RdmaPageSink::Create(std::unique_ptr<Stream> stream, Pairs pairs,
                                                                   std::shared_ptr<RdmaReach> reach,
                                                                   absl::Duration patience, const Clock& clock) {
  FERRITE_ASSIGN_OR_RETURN(Mapping message, Mapping::Create("a message", kPageBytes, MAP_PRIVATE | MAP_ANONYMOUS));
  std::unique_ptr<RdmaPageSink> sink(
      new RdmaPageSink(std::move(stream), std::move(pairs), std::move(reach), std::move(message), patience, clock));
  FERRITE_ASSIGN_OR_RETURN(sink->message_,
                           sink->reach_->domain().Register(sink->message_memory_.span(), MemoryAccess::kLocal));
  return sink;
}

RdmaPageSink::RdmaPageSink(std::unique_ptr<Stream> stream, Pairs pairs, std::shared_ptr<RdmaReach> reach,
                           Mapping message, absl::Duration patience, const Clock& clock)
    : StreamPageSink(std::move(stream)),
      reach_(std::move(reach)),
      message_memory_(std::move(message)),
      push_(std::move(pairs.push)),
      pull_(std::move(pairs.pull)),
      ended_(push_ == nullptr),
      is_live_(push_ == nullptr) {
  if (push_ != nullptr) {
    waiter_.emplace(*push_, StreamPageSink::stream(), patience, clock);
  }
}

void RdmaPageSink::Shutdown() {
  StreamPageSink::Shutdown();
  for (QueuePair* const pair : {push_.get(), pull_.get()}) {
    if (pair != nullptr) {
      pair->Break();
    }
  }
}

void RdmaPageSink::SetPatience(absl::Duration patience) {
  StreamPageSink::SetPatience(patience);
  if (waiter_.has_value()) {
    waiter_->SetPatience(patience);
  }
}

absl::Status RdmaPageSink::Add(const PageHeader& header, std::span<const uint8_t> bytes) {
  const PageRange run{.region = header.region, .first = header.first_page, .count = header.count};
  if (header.type == PageFrameType::kPages && !ended_) {
    return AddPages(run, bytes);
  }
  if (header.type == PageFrameType::kPages && is_live_ && pull_ != nullptr) {
    return AddReadable(run, bytes);
  }
  // What is written in the next round must not come before what goes behind headers in this one, nor before zeros.
  if (header.type == PageFrameType::kRound && !ended_ && std::exchange(has_memory_, false)) {
    PageHeader end = header;
    end.bytes = PageBytes::kWritten;
    FERRITE_RETURN_IF_ERROR(StreamPageSink::Add(end, {}));
    awaits_arrival_ = true;
    return absl::OkStatus();
  }
  has_memory_ = has_memory_ || (header.type != PageFrameType::kRound && reach_->HasMemory(header.region));
  return StreamPageSink::Add(header, bytes);
}

absl::Status RdmaPageSink::LookAt(const PageRange& run, std::span<const uint8_t> bytes) const {
  const std::optional<uintptr_t> hit = TouchMemory([&] {
    for (size_t at = 0; at < bytes.size(); at += kPageBytes) {
      (void)*static_cast<const volatile uint8_t*>(&bytes[at]);
    }
  });
  if (hit.has_value()) {
    FERRITE_RETURN_IF_ERROR(Find(reinterpret_cast<const uint8_t*>(*hit)));
    return absl::DataLossError(absl::StrCat("a page of region ", run.region, " is lost"));
  }
  return absl::OkStatus();
}

absl::Status RdmaPageSink::AddReadable(const PageRange& run, std::span<const uint8_t> bytes) {
  FERRITE_RETURN_IF_ERROR(LookAt(run, bytes));
  for (uint64_t done = 0; done < run.count;) {
    const PageRange rest{.region = run.region, .first = run.first + done, .count = run.count - done};
    // Who asked for a page does not wait for that.
    const RdmaReach::Readable readable = reach_->FindReadable(rest, /*registers=*/push_ != nullptr);
    PageHeader header =
        HeaderOf(PageFrameType::kPages, {.region = run.region, .first = rest.first, .count = readable.pages});
    const uint64_t size = readable.pages * kPageBytes;
    if (readable.key.given) {
      header.bytes = PageBytes::kReadable;
      FERRITE_RETURN_IF_ERROR(AddWithKey(header, readable.key));
      beside_ += size;
      reach_->figures().read_bytes += size;
    } else {
      FERRITE_RETURN_IF_ERROR(StreamPageSink::Add(header, bytes.subspan(done * kPageBytes, size)));
      reach_->figures().inline_bytes += size;
    }
    done += readable.pages;
  }
  return absl::OkStatus();
}

absl::Status RdmaPageSink::TellKeys() {
  for (const RdmaReach::ReadableChunk& chunk : reach_->ReadableChunks()) {
    FERRITE_RETURN_IF_ERROR(AddWithKey(HeaderOf(PageFrameType::kKey, chunk.pages), chunk.key));
  }
  return Flush();
}

absl::StatusOr<PageRange> RdmaPageSink::NextRequest() {
  if (!std::exchange(told_keys_, true)) {
    FERRITE_RETURN_IF_ERROR(TellKeys());
  }
  return StreamPageSink::NextRequest();
}

absl::Status RdmaPageSink::AddPages(const PageRange& run, std::span<const uint8_t> bytes) {
  // A device that meets a lost page breaks its queue pair: they are all looked at before anything is put in.
  FERRITE_RETURN_IF_ERROR(LookAt(run, bytes));
  has_memory_ = has_memory_ || reach_->HasMemory(run.region);
  for (uint64_t done = 0; done < run.count;) {
    const PageRange rest{.region = run.region, .first = run.first + done, .count = run.count - done};
    for (const PageRange& chunk : reach_->TakeAsks(rest)) {
      FERRITE_RETURN_IF_ERROR(StreamPageSink::Add(HeaderOf(PageFrameType::kAskKey, chunk), {}));
    }
    const RdmaReach::Way way = reach_->Find(rest);
    const PageRange piece{.region = run.region, .first = rest.first, .count = way.pages};
    if (way.is_written) {
      FERRITE_RETURN_IF_ERROR(Write(piece, way));
    } else {
      FERRITE_RETURN_IF_ERROR(StreamPageSink::Add(HeaderOf(PageFrameType::kPages, piece),
                                                  bytes.subspan(done * kPageBytes, piece.count * kPageBytes)));
      reach_->figures().inline_bytes += piece.count * kPageBytes;
    }
    done += piece.count;
  }
  return absl::OkStatus();
}

absl::Status RdmaPageSink::Write(const PageRange& run, const RdmaReach::Way& way) {
  do {
    if (full()) {
      FERRITE_RETURN_IF_ERROR(Flush());
    }
    if (!has_barrier_) {
      FERRITE_RETURN_IF_ERROR(StreamPageSink::Add({.type = PageFrameType::kBarrier, .count = sends_ + 1}, {}));
      has_barrier_ = true;
    }
    // What it is for gathers with it.
  } while (full());
  // Room for the SEND, too.
  FERRITE_RETURN_IF_ERROR(AwaitWork(QueuePair::kMostWork - 2));
  PageHeader header = HeaderOf(PageFrameType::kPages, run);
  header.bytes = PageBytes::kWritten;
  FERRITE_RETURN_IF_ERROR(StreamPageSink::Add(header, {}));
  FERRITE_RETURN_IF_ERROR(push_->PostWrite(0, way.from, way.to));
  ++under_way_;
  beside_ += way.from.bytes.size();
  reach_->figures().written_bytes += way.from.bytes.size();
  return absl::OkStatus();
}

absl::Status RdmaPageSink::Flush() {
  const absl::Status status = FlushAll();
  if (!status.ok()) {
    // From here on nothing reads what was put in.
    Shutdown();
  }
  return status;
}

absl::Status RdmaPageSink::FlushAll() {
  if (is_empty()) {
    return absl::OkStatus();
  }
  if (std::exchange(has_barrier_, false)) {
    // Behind all that was written, and so it arrives behind it.
    FERRITE_RETURN_IF_ERROR(AwaitWork(QueuePair::kMostWork - 1));
    FERRITE_RETURN_IF_ERROR(
        push_->PostSend(0, {.memory = message_.get(), .bytes = message_memory_.span().first(kMessageBytes)}));
    ++sends_;
    ++under_way_;
  }
  FERRITE_RETURN_IF_ERROR(StreamPageSink::Flush());
  FERRITE_RETURN_IF_ERROR(AwaitWork(0));
  beside_ = 0;
  while (awaits_arrival_) {
    FERRITE_RETURN_IF_ERROR(AwaitWord());
  }
  // Keys that have come by now.
  for (bool more = !ended_; more;) {
    FERRITE_ASSIGN_OR_RETURN(more, ReadWord(/*waits=*/false));
  }
  return absl::OkStatus();
}

absl::Status RdmaPageSink::EndRounds() {
  if (std::exchange(ended_, true)) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(StreamPageSink::Add({.type = PageFrameType::kEndRounds}, {}));
  return Flush();
}

void RdmaPageSink::PreferLatency() {
  StreamPageSink::PreferLatency();
  // Also where the rounds ended over other channels: in a recovery.
  ended_ = true;
  is_live_ = true;
}

absl::Status RdmaPageSink::AwaitWork(size_t most) {
  while (under_way_ > most) {
    std::array<Completion, 16> over;
    FERRITE_ASSIGN_OR_RETURN(const size_t count, waiter_->Await(over));
    under_way_ -= std::min(count, under_way_);
  }
  return absl::OkStatus();
}

absl::Status RdmaPageSink::AwaitWord() {
  // A key that comes between two words is one, too.
  return ReadWord(/*waits=*/true).status();
}

absl::StatusOr<bool> RdmaPageSink::ReadWord(bool waits) {
  while (true) {
    size_t due = 1;
    if (word_bytes_ > 0) {
      due = kPageHeaderBytes;
    }
    if (word_bytes_ >= kPageHeaderBytes) {
      FERRITE_ASSIGN_OR_RETURN(const PageHeader header,
                               DecodePageHeader(std::span(word_).first<kPageHeaderBytes>(), Frames::kLanes));
      due += header.type == PageFrameType::kKey ? kRemoteKeyBytes : 0;
    }
    if (word_bytes_ == due && word_bytes_ > 1) {
      const size_t bytes = std::exchange(word_bytes_, 0);
      FERRITE_RETURN_IF_ERROR(OnFrame(std::span(word_).first(bytes)));
      return true;
    }
    const std::span<uint8_t> rest = std::span(word_).subspan(word_bytes_, due - word_bytes_);
    absl::StatusOr<size_t> read = rest.size();
    if (waits) {
      const absl::Status status = stream().ReadRest(rest);
      read = status.ok() ? read : status;
    } else {
      read = stream().ReadSome(rest);
    }
    if (!read.ok()) {
      // The other end has closed it, and says why elsewhere.
      return absl::IsOutOfRange(read.status()) ? absl::UnavailableError(read.status().message()) : read.status();
    }
    if (*read == 0) {
      return false;
    }
    word_bytes_ += *read;
    if (word_bytes_ == 1 && word_[0] == kPlaced) {
      word_bytes_ = 0;
      FERRITE_RETURN_IF_ERROR(OnPlaced());
      return true;
    }
  }
}

absl::Status RdmaPageSink::OnFrame(std::span<const uint8_t> bytes) {
  FERRITE_ASSIGN_OR_RETURN(const PageHeader header, DecodePageHeader(bytes.first<kPageHeaderBytes>(), Frames::kLanes));
  if (header.type == PageFrameType::kKey) {
    FERRITE_ASSIGN_OR_RETURN(const RemoteKey key, DecodeRemoteKey(bytes.subspan<kPageHeaderBytes, kRemoteKeyBytes>()));
    return reach_->OnKey({.region = header.region, .first = header.first_page, .count = header.count}, key);
  }
  if (header.type != PageFrameType::kBarrier || !awaits_arrival_ || header.count != sends_) {
    return absl::InvalidArgumentError("page channel: the destination sent what is no word of it");
  }
  awaits_arrival_ = false;
  return absl::OkStatus();
}

}  // namespace ferrite::migration
