#include "migration/channel/rdma/cm_id.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

enum : uint32_t { kEvent = 1, kStop = 2 };

constexpr uint32_t Bit(rdma_cm_event_type event) { return 1u << static_cast<unsigned>(event); }

}  // namespace

absl::StatusOr<std::shared_ptr<CmEvents>> CmEvents::Create(const RdmaLibrary& library, ThreadMaker& threads) {
  FERRITE_ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  rdma_event_channel* const channel = library.cm.create_event_channel();
  if (channel == nullptr) {
    return absl::UnavailableError(ErrnoStatus("no RDMA device: the connection manager (rdma_ucm)").message());
  }
  // Not std::make_shared: it may not.
  std::shared_ptr<CmEvents> events(new CmEvents(library, channel, std::move(stop)));
  if (fcntl(channel->fd, F_SETFL, fcntl(channel->fd, F_GETFL) | O_NONBLOCK) != 0) return ErrnoStatus("rdma events");
  FERRITE_ASSIGN_OR_RETURN(WaitSet made, WaitSet::Create());
  auto waits = std::make_shared<WaitSet>(std::move(made));
  FERRITE_RETURN_IF_ERROR(waits->Add(channel->fd, kEvent));
  FERRITE_RETURN_IF_ERROR(waits->Add(events->stop_.fd(), kStop));
  FERRITE_ASSIGN_OR_RETURN(events->thread_,
                           threads.Start("mig-rdma-cm", ThreadClass::kInherited,
                                         [its = events.get(), waits = std::move(waits)] { its->Run(*waits); }));
  return events;
}

CmEvents::~CmEvents() {
  stop_.Signal();
  thread_.Join();
  library_.cm.destroy_event_channel(channel_);
}

void CmEvents::Run(WaitSet& waits) {
  while (true) {
    const absl::StatusOr<uint32_t> tags = waits.Wait();
    if (!tags.ok() || (*tags & kStop) != 0) return;
    rdma_cm_event* event = nullptr;
    while (library_.cm.get_cm_event(channel_, &event) == 0) {
      const bool asks = event->event == RDMA_CM_EVENT_CONNECT_REQUEST;
      const rdma_cm_id* const id = asks ? event->listen_id : event->id;
      // It lives at least until the event is acknowledged: rdma_destroy_id(3) waits for that.
      if (auto* const its = static_cast<CmId*>(id->context); its != nullptr) its->Handle(*event);
      library_.cm.ack_cm_event(event);
    }
  }
}

absl::StatusOr<std::unique_ptr<CmId>> CmId::Create(std::shared_ptr<CmEvents> events) {
  FERRITE_ASSIGN_OR_RETURN(EventFd moved, EventFd::Create());
  std::unique_ptr<CmId> id(new CmId(std::move(events), std::move(moved)));
  if (id->events_->library().cm.create_id(id->events_->channel(), &id->id_, id.get(), RDMA_PS_TCP) != 0) {
    return ErrnoStatus("make an rdma connection");
  }
  return id;
}

absl::StatusOr<std::unique_ptr<CmId>> CmId::Adopt(std::shared_ptr<CmEvents> events, rdma_cm_id* id, CmRequest request) {
  FERRITE_ASSIGN_OR_RETURN(EventFd moved, EventFd::Create());
  std::unique_ptr<CmId> adopted(new CmId(std::move(events), std::move(moved)));
  adopted->id_ = id;
  adopted->request_ = std::move(request);
  id->context = adopted.get();
  return adopted;
}

CmId::~CmId() {
  // Waits until its events have been handled. A request that was not answered is rejected by that.
  if (id_ != nullptr) events_->library().cm.destroy_id(id_);
}

absl::Status CmId::Await(rdma_cm_event_type event, const CmWait& wait, absl::string_view what) {
  while (true) {
    {
      moved_.Drain();
      const absl::MutexLock lock(&mutex_);
      if (!lost_.ok()) return Annotate(lost_, what);
      if ((seen_ & Bit(event)) != 0) return absl::OkStatus();
    }
    const absl::Duration left = wait.left();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError(absl::StrCat(what, ": no answer in time"));
    std::array<pollfd, 2> polled = {pollfd{.fd = moved_.fd(), .events = POLLIN, .revents = 0},
                                    pollfd{.fd = wait.cancel.fd(), .events = POLLIN, .revents = 0}};
    wait.clock.PollFor(polled, left);
    if (polled[1].revents != 0) return absl::CancelledError(absl::StrCat(what, ": cancelled"));
  }
}

bool CmId::lost() const {
  const absl::MutexLock lock(&mutex_);
  return !lost_.ok();
}

void CmId::SetOnLost(std::function<void()> on_lost) {
  const absl::MutexLock lock(&mutex_);
  on_lost_ = std::move(on_lost);
  if (!lost_.ok() && on_lost_ != nullptr) on_lost_();
}

void CmId::SetOnRequest(std::function<void(std::unique_ptr<CmId>)> on_request) {
  const absl::MutexLock lock(&mutex_);
  on_request_ = std::move(on_request);
}

void CmId::Ask(const rdma_cm_event& event) {
  const rdma_conn_param& param = event.param.conn;
  CmRequest request = {
      .said = {}, .responder_resources = param.responder_resources, .initiator_depth = param.initiator_depth};
  if (param.private_data != nullptr) {
    request.said.assign(static_cast<const char*>(param.private_data), param.private_data_len);
  }
  event.id->context = nullptr;
  absl::StatusOr<std::unique_ptr<CmId>> came = Adopt(events_, event.id, std::move(request));
  const absl::MutexLock lock(&mutex_);
  if (came.ok() && on_request_ != nullptr) {
    on_request_(*std::move(came));
  } else if (!came.ok()) {
    events_->library().cm.destroy_id(event.id);
  }
}

void CmId::Handle(const rdma_cm_event& event) {
  switch (event.event) {
    case RDMA_CM_EVENT_CONNECT_REQUEST:
      Ask(event);
      return;
    case RDMA_CM_EVENT_ADDR_RESOLVED:
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
    case RDMA_CM_EVENT_ESTABLISHED: {
      const absl::MutexLock lock(&mutex_);
      seen_ |= Bit(event.event);
      moved_.Signal();
      return;
    }
    case RDMA_CM_EVENT_ADDR_CHANGE:
    case RDMA_CM_EVENT_CONNECT_RESPONSE:
    case RDMA_CM_EVENT_MULTICAST_JOIN:
    case RDMA_CM_EVENT_MULTICAST_ERROR:
      return;
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR:
    case RDMA_CM_EVENT_CONNECT_ERROR:
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_REJECTED:
    case RDMA_CM_EVENT_DISCONNECTED:
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
    case RDMA_CM_EVENT_TIMEWAIT_EXIT:
      break;
  }
  {
    const absl::MutexLock lock(&mutex_);
    if (lost_.ok()) {
      lost_ =
          absl::UnavailableError(absl::StrCat(events_->library().cm.event_str(event.event), " (", event.status, ")"));
      if (on_lost_ != nullptr) on_lost_();
    }
    moved_.Signal();
  }
  // The other side waits for the answer.
  if (event.event == RDMA_CM_EVENT_DISCONNECTED) events_->library().cm.disconnect(id_);
}

}  // namespace ferrite::migration
