// Identifiers of the connection manager, and the thread that hears of them: rdma_cm(7).
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_CM_ID_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_CM_ID_H_

#include <rdma/rdma_cma.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "base/thread_maker.h"
#include "migration/channel/rdma/rdma_library.h"
#include "migration/channel/wait_set.h"

namespace ferrite::migration {

// The thread "mig-rdma-cm", which takes the events of all identifiers of a Verbs. Threads: any.
class CmEvents {
 public:
  // UNAVAILABLE where the kernel has no RDMA.
  static absl::StatusOr<std::shared_ptr<CmEvents>> Create(const RdmaLibrary& library, ThreadMaker& threads);
  // None of its identifiers is left.
  ~CmEvents();

  const RdmaLibrary& library() const { return library_; }
  rdma_event_channel* channel() const { return channel_; }

 private:
  CmEvents(const RdmaLibrary& library, rdma_event_channel* channel, EventFd stop)
      : library_(library), channel_(channel), stop_(std::move(stop)) {}
  void Run(WaitSet& waits);

  const RdmaLibrary& library_;
  rdma_event_channel* const channel_;
  const EventFd stop_;
  Thread thread_;
};

// How long somebody waits, and who may end it.
struct CmWait {
  const Clock& clock;
  MonotonicTime deadline;
  const EventFd& cancel;

  absl::Duration left() const { return deadline - clock.Now(); }
};

// What came with a request to connect.
struct CmRequest {
  std::string said;
  uint8_t responder_resources = 0;
  uint8_t initiator_depth = 0;
};

// One identifier. Threads: any; what it calls back is called on the events' thread, and not any more when the setter of
// another one has returned.
class CmId {
 public:
  static absl::StatusOr<std::unique_ptr<CmId>> Create(std::shared_ptr<CmEvents> events);
  // Of a request; it is rejected when it is destroyed and was not accepted.
  static absl::StatusOr<std::unique_ptr<CmId>> Adopt(std::shared_ptr<CmEvents> events, rdma_cm_id* id,
                                                     CmRequest request);
  ~CmId();
  CmId(const CmId&) = delete;
  CmId& operator=(const CmId&) = delete;

  rdma_cm_id* get() const { return id_; }
  const CmRequest& request() const { return request_; }

  // Waits for ADDR_RESOLVED, ROUTE_RESOLVED or ESTABLISHED. UNAVAILABLE, with the event that came instead.
  absl::Status Await(rdma_cm_event_type event, const CmWait& wait, absl::string_view what);
  // It was lost: the other side has gone, or the device.
  bool lost() const;
  // What is to be done then; at once when it is lost already.
  void SetOnLost(std::function<void()> on_lost);
  // What is to be done with who asks for a connection.
  void SetOnRequest(std::function<void(std::unique_ptr<CmId>)> on_request);

 private:
  friend class CmEvents;

  CmId(std::shared_ptr<CmEvents> events, EventFd moved) : events_(std::move(events)), moved_(std::move(moved)) {}
  void Handle(const rdma_cm_event& event);
  void Ask(const rdma_cm_event& event);

  const std::shared_ptr<CmEvents> events_;
  const EventFd moved_;
  rdma_cm_id* id_ = nullptr;
  CmRequest request_;
  mutable absl::Mutex mutex_;
  uint32_t seen_ ABSL_GUARDED_BY(mutex_) = 0;  // a bit for each event that went well
  absl::Status lost_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_lost_ ABSL_GUARDED_BY(mutex_);
  std::function<void(std::unique_ptr<CmId>)> on_request_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_CM_ID_H_
