#include "migration/channel/rdma/ibverbs_listener.h"

#include <arpa/inet.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/channel/rdma/ibverbs_pair.h"

namespace ferrite::migration {
namespace {

constexpr size_t kMostCallers = 64;
constexpr absl::Duration kPatience = absl::Seconds(10);

}  // namespace

std::string PackGreeting(absl::string_view greeting) {
  std::string said(1, static_cast<char>(greeting.size()));
  absl::StrAppend(&said, greeting);
  return said;
}

std::optional<absl::string_view> UnpackGreeting(absl::string_view said) {
  if (said.empty() || static_cast<uint8_t>(said[0]) > std::min(kMostGreeting, said.size() - 1)) return std::nullopt;
  return said.substr(1, static_cast<uint8_t>(said[0]));
}

absl::StatusOr<std::unique_ptr<QueuePairListener>> IbverbsListener::Create(std::shared_ptr<IbverbsDomain> domain,
                                                                           std::unique_ptr<CmId> id,
                                                                           RdmaAddress address, const Clock& clock) {
  FERRITE_ASSIGN_OR_RETURN(EventFd came, EventFd::Create());
  const RdmaLibrary& library = domain->library();
  std::unique_ptr<IbverbsListener> listener(
      new IbverbsListener(std::move(domain), std::move(id), std::move(came), clock));
  listener->id_->SetOnRequest([its = listener.get()](std::unique_ptr<CmId> caller) {
    const absl::MutexLock lock(&its->mutex_);
    // Who comes when there are too many is rejected with its identifier.
    if (its->callers_.size() >= kMostCallers) return;
    its->callers_.push_back({.id = std::move(caller), .came = its->clock_.Now()});
    its->came_.Signal();
  });
  rdma_cm_id* const its = listener->id_->get();
  if (library.cm.bind_addr(its, address.get()) != 0) return ErrnoStatus("listen for queue pairs: bind");
  if (library.cm.listen(its, kMostCallers) != 0) return ErrnoStatus("listen for queue pairs");
  // Of both families it is in the same place.
  listener->port_ = ntohs(its->route.addr.src_sin.sin_port);
  return listener;
}

IbverbsListener::~IbverbsListener() { id_->SetOnRequest(nullptr); }

std::unique_ptr<CmId> IbverbsListener::Find(absl::string_view greeting) {
  // Destroyed without the lock: that waits for the events' thread, which may be at the request of another one.
  std::vector<std::unique_ptr<CmId>> gone;
  std::unique_ptr<CmId> found;
  const absl::MutexLock lock(&mutex_);
  for (auto caller = callers_.begin(); caller != callers_.end();) {
    const bool wanted = UnpackGreeting(caller->id->request().said) == greeting;
    if (clock_.Now() - caller->came > kPatience || caller->id->lost()) {
      gone.push_back(std::move(caller->id));
    } else if (found == nullptr && wanted) {
      found = std::move(caller->id);
    } else {
      ++caller;
      continue;
    }
    caller = callers_.erase(caller);
  }
  return found;
}

absl::StatusOr<std::unique_ptr<QueuePair>> IbverbsListener::Accept(absl::string_view greeting,
                                                                   const QueuePairTerms& terms, MonotonicTime deadline,
                                                                   const EventFd& cancel) {
  const std::string what = absl::StrCat("accept at rdma port ", port_);
  const CmWait wait = {.clock = clock_, .deadline = deadline, .cancel = cancel};
  while (true) {
    came_.Drain();
    if (std::unique_ptr<CmId> id = Find(greeting); id != nullptr) {
      absl::StatusOr<std::unique_ptr<IbverbsPair>> pair = IbverbsPair::Create(domain_, std::move(id), terms);
      if (!pair.ok()) return Annotate(pair.status(), what);
      FERRITE_RETURN_IF_ERROR(Annotate((*pair)->Accept(wait), what));
      return *std::move(pair);
    }
    const absl::Duration left = wait.left();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError(absl::StrCat(what, ": nobody in time"));
    std::array<pollfd, 2> polled = {pollfd{.fd = came_.fd(), .events = POLLIN, .revents = 0},
                                    pollfd{.fd = cancel.fd(), .events = POLLIN, .revents = 0}};
    clock_.PollFor(polled, left);
    if (polled[1].revents != 0) return absl::CancelledError(absl::StrCat(what, ": cancelled"));
  }
}

}  // namespace ferrite::migration
