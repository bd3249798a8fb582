#include "migration/channel/pair/pair_control.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include "absl/strings/str_cat.h"

namespace ferrite::migration {
namespace {

// As many as a peer may let lie.
constexpr size_t kMostMessages = 64;
// A message that waits looks at its patience so often.
constexpr absl::Duration kStep = absl::Milliseconds(100);

}  // namespace

PairControlChannel::~PairControlChannel() {
  in_->CloseAndDrop();
  out_->Close();
}

absl::Status PairControlChannel::Send(const Message& message) {
  absl::Duration waited;
  while (true) {
    const absl::Duration patience = absl::Nanoseconds(patience_.load());
    const absl::Duration step = std::min(patience, kStep);
    switch (out_->PutIn(message, kMostMessages, step)) {
      case MessagePipe::Put::kDone:
        return absl::OkStatus();
      case MessagePipe::Put::kClosed:
        return absl::UnavailableError(absl::StrCat(peer_, " closed the connection"));
      case MessagePipe::Put::kLate:
        break;
    }
    waited += step;
    if (waited >= patience) {
      return absl::UnavailableError(absl::StrCat(peer_, " stopped reading"));
    }
  }
}

void PairControlChannel::SendAtOnce(const Message& message) {
  (void)out_->PutIn(message, kMostMessages, absl::ZeroDuration());
}

bool PairControlChannel::HasRoom() const { return out_->HasRoom(kMostMessages); }

absl::StatusOr<ControlChannel::Received> PairControlChannel::Next(absl::Duration limit) {
  if (!in_->Await(limit)) {
    return absl::DeadlineExceededError(absl::StrCat(peer_, " says nothing"));
  }
  std::optional<Message> message = in_->Take();
  if (!message.has_value()) {
    return absl::UnavailableError(absl::StrCat(peer_, " closed the connection"));
  }
  in_->Done();
  return Received{.message = *std::move(message), .bytes = 0};
}

void PairControlChannel::Shutdown() {
  in_->CloseAndDrop();
  // What was said before is still heard.
  out_->Close();
}

}  // namespace ferrite::migration
