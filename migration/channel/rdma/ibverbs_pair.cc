#include "migration/channel/rdma/ibverbs_pair.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/channel/rdma/ibverbs_listener.h"

namespace ferrite::migration {
namespace {

// 10 µs (ibv_modify_qp(3)): a message that comes before the receive for it is soon there again.
constexpr uint8_t kMinRnrTimer = 1;
// "For ever", rdma_connect(3).
constexpr uint8_t kRnrForEver = 7;
// READs that are under way at once, each way.
constexpr int kMostReads = 16;

// Timeouts are powers of two of 4.096 µs: the next one above.
uint8_t AckTimeout(absl::Duration timeout) {
  uint8_t exponent = 1;
  while (exponent < 31 && absl::Nanoseconds(4096) * (int64_t{1} << exponent) < timeout) exponent++;
  return exponent;
}

absl::Status Watch(const Fd& epoll, int fd) {
  epoll_event event = {.events = EPOLLIN, .data = {}};
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return ErrnoStatus("watch a queue pair");
  return absl::OkStatus();
}

}  // namespace

IbverbsPair::IbverbsPair(std::shared_ptr<IbverbsDomain> domain, std::unique_ptr<CmId> id, const QueuePairTerms& terms,
                         EventFd has_broken, Fd ready)
    : library_(domain->library()),
      domain_(std::move(domain)),
      id_(std::move(id)),
      terms_(terms),
      has_broken_(std::move(has_broken)),
      ready_(std::move(ready)) {
  for (size_t i = 0; i < kSlots; i++) (i < kMostWork ? free_work_ : free_receives_).push_back(static_cast<uint16_t>(i));
}

absl::StatusOr<std::unique_ptr<IbverbsPair>> IbverbsPair::Create(std::shared_ptr<IbverbsDomain> domain,
                                                                 std::unique_ptr<CmId> id,
                                                                 const QueuePairTerms& terms) {
  FERRITE_ASSIGN_OR_RETURN(EventFd has_broken, EventFd::Create());
  Fd ready(epoll_create1(EPOLL_CLOEXEC));
  if (!ready.valid()) return ErrnoStatus("watch a queue pair");
  std::unique_ptr<IbverbsPair> pair(
      new IbverbsPair(std::move(domain), std::move(id), terms, std::move(has_broken), std::move(ready)));
  FERRITE_RETURN_IF_ERROR(pair->Make());
  return pair;
}

absl::Status IbverbsPair::Make() {
  rdma_cm_id* const id = id_->get();
  ibv_pd* const pd = domain_->protection_domain();
  // librdmacm opens a device once, so what is registered serves all.
  if (id->verbs != pd->context) return absl::UnavailableError("the connection leads over another RDMA device");
  channel_ = library_.verbs.create_comp_channel(id->verbs);
  if (channel_ == nullptr) return ErrnoStatus("make a completion channel");
  if (fcntl(channel_->fd, F_SETFL, fcntl(channel_->fd, F_GETFL) | O_NONBLOCK) != 0) {
    return ErrnoStatus("a completion channel");
  }
  queue_ = library_.verbs.create_cq(id->verbs, kSlots, nullptr, channel_, 0);
  if (queue_ == nullptr) return ErrnoStatus("make a completion queue");
  if (const int error = ibv_req_notify_cq(queue_, 0); error != 0) return ErrnoStatus(error, "arm a completion queue");
  FERRITE_RETURN_IF_ERROR(Watch(ready_, channel_->fd));
  FERRITE_RETURN_IF_ERROR(Watch(ready_, has_broken_.fd()));
  ibv_qp_init_attr attributes = {};
  attributes.qp_type = IBV_QPT_RC;
  attributes.send_cq = queue_;
  attributes.recv_cq = queue_;
  attributes.sq_sig_all = 1;
  attributes.cap.max_send_wr = kMostWork;
  attributes.cap.max_recv_wr = kMostReceives;
  attributes.cap.max_send_sge = 1;
  attributes.cap.max_recv_sge = 1;
  if (library_.cm.create_qp(id, pd, &attributes) != 0) return ErrnoStatus("make a queue pair");
  made_ = true;
  id_->SetOnLost([this] { Break(); });
  return absl::OkStatus();
}

IbverbsPair::~IbverbsPair() {
  if (made_) {
    id_->SetOnLost(nullptr);
    // Tells the other side, too.
    library_.cm.disconnect(id_->get());
    library_.cm.destroy_qp(id_->get());
  }
  if (queue_ != nullptr) library_.verbs.destroy_cq(queue_);
  if (channel_ != nullptr) library_.verbs.destroy_comp_channel(channel_);
}

absl::Status IbverbsPair::SetAckTimeout() {
  uint8_t timeout = AckTimeout(terms_.ack_timeout);
  // Kernels before 5.3 have no such option: then it is the fabric's own, some seconds in all.
  if (library_.cm.set_option(id_->get(), RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout)) != 0 &&
      errno != ENOSYS) {
    return ErrnoStatus("set how long a queue pair waits for an acknowledgement");
  }
  return absl::OkStatus();
}

rdma_conn_param IbverbsPair::Params() const {
  rdma_conn_param params = {};
  const ibv_device_attr& device = domain_->attributes();
  params.responder_resources = static_cast<uint8_t>(std::clamp(device.max_qp_rd_atom, 1, kMostReads));
  params.initiator_depth = static_cast<uint8_t>(std::clamp(device.max_qp_init_rd_atom, 1, kMostReads));
  params.retry_count = static_cast<uint8_t>(std::clamp(terms_.retries, 0, 7));
  params.rnr_retry_count = kRnrForEver;
  return params;
}

absl::Status IbverbsPair::Connect(absl::string_view greeting, const CmWait& wait) {
  FERRITE_RETURN_IF_ERROR(SetAckTimeout());
  rdma_conn_param params = Params();
  const std::string said = PackGreeting(greeting);
  params.private_data = said.data();
  params.private_data_len = static_cast<uint8_t>(said.size());
  if (library_.cm.connect(id_->get(), &params) != 0) return ErrnoStatus("ask for the connection");
  FERRITE_RETURN_IF_ERROR(id_->Await(RDMA_CM_EVENT_ESTABLISHED, wait, "the connection"));
  return Finish();
}

absl::Status IbverbsPair::Accept(const CmWait& wait) {
  FERRITE_RETURN_IF_ERROR(SetAckTimeout());
  rdma_conn_param params = Params();
  params.responder_resources = std::min(params.responder_resources, id_->request().responder_resources);
  params.initiator_depth = std::min(params.initiator_depth, id_->request().initiator_depth);
  if (library_.cm.accept(id_->get(), &params) != 0) return ErrnoStatus("accept the connection");
  FERRITE_RETURN_IF_ERROR(id_->Await(RDMA_CM_EVENT_ESTABLISHED, wait, "the connection"));
  return Finish();
}

absl::Status IbverbsPair::Finish() {
  ibv_qp_attr attributes = {};
  if (terms_.remote_write) attributes.qp_access_flags |= IBV_ACCESS_REMOTE_WRITE;
  if (terms_.remote_read) attributes.qp_access_flags |= IBV_ACCESS_REMOTE_READ;
  attributes.min_rnr_timer = kMinRnrTimer;
  int mask = IBV_QP_ACCESS_FLAGS;
  // iWARP has no such timer: its streams wait.
  if (id_->get()->verbs->device->transport_type == IBV_TRANSPORT_IB) mask |= IBV_QP_MIN_RNR_TIMER;
  if (const int error = library_.verbs.modify_qp(id_->get()->qp, &attributes, mask); error != 0 && !broken()) {
    return ErrnoStatus(error, "say what the other side may do");
  }
  return broken() ? absl::UnavailableError("the connection was lost at once") : absl::OkStatus();
}

absl::Status IbverbsPair::Post(uint64_t id, WorkKind kind, const LocalPiece& local, const RemotePiece& remote) {
  if (broken()) return absl::UnavailableError("the queue pair is broken");
  std::vector<uint16_t>& free = kind == WorkKind::kReceive ? free_receives_ : free_work_;
  if (free.empty()) return absl::ResourceExhaustedError("too many work requests for a queue pair");
  const uint16_t slot = free.back();
  ibv_sge piece = {.addr = reinterpret_cast<uintptr_t>(local.bytes.data()),
                   .length = static_cast<uint32_t>(local.bytes.size()),
                   .lkey = local.memory->local_key()};
  int error = 0;
  if (kind == WorkKind::kReceive) {
    ibv_recv_wr receive = {.wr_id = slot, .next = nullptr, .sg_list = &piece, .num_sge = 1};
    ibv_recv_wr* bad = nullptr;
    error = ibv_post_recv(id_->get()->qp, &receive, &bad);
  } else {
    ibv_send_wr work = {};
    work.wr_id = slot;
    work.sg_list = &piece;
    work.num_sge = 1;
    work.opcode = kind == WorkKind::kWrite  ? IBV_WR_RDMA_WRITE
                  : kind == WorkKind::kRead ? IBV_WR_RDMA_READ
                                            : IBV_WR_SEND;
    work.wr.rdma.remote_addr = remote.address;
    work.wr.rdma.rkey = remote.key;
    ibv_send_wr* bad = nullptr;
    error = ibv_post_send(id_->get()->qp, &work, &bad);
  }
  if (error != 0) {
    if (broken()) return absl::UnavailableError("the queue pair is broken");
    return ErrnoStatus(error, absl::StrCat("post work of ", local.bytes.size(), " bytes to a queue pair"));
  }
  free.pop_back();
  slots_[slot] = {.id = id, .kind = kind};
  return absl::OkStatus();
}

absl::Status IbverbsPair::PostWrite(uint64_t id, const LocalPiece& from, const RemotePiece& to) {
  return Post(id, WorkKind::kWrite, from, to);
}
absl::Status IbverbsPair::PostRead(uint64_t id, const LocalPiece& into, const RemotePiece& from) {
  return Post(id, WorkKind::kRead, into, from);
}
absl::Status IbverbsPair::PostSend(uint64_t id, const LocalPiece& message) {
  return Post(id, WorkKind::kSend, message, {});
}
absl::Status IbverbsPair::PostReceive(uint64_t id, const LocalPiece& into) {
  return Post(id, WorkKind::kReceive, into, {});
}

absl::StatusOr<size_t> IbverbsPair::TakeCompletions(std::span<Completion> into) {
  for (size_t taken = 0; taken < into.size(); taken++) {
    ibv_wc done = {};
    const int found = ibv_poll_cq(queue_, 1, &done);
    if (found < 0) {
      Break();
      return absl::UnavailableError("the completion queue is broken");
    }
    if (found == 0) return taken;
    const auto slot = static_cast<uint16_t>(done.wr_id);
    const auto [id, kind] = slots_[slot];
    (slot < kMostWork ? free_work_ : free_receives_).push_back(slot);
    into[taken] = {.id = id, .kind = kind, .status = absl::OkStatus()};
    if (done.status == IBV_WC_SUCCESS) {
      if (kind == WorkKind::kReceive) into[taken].bytes = done.byte_len;
      continue;
    }
    into[taken].status = absl::UnavailableError(library_.verbs.wc_status_str(done.status));
    Break();
  }
  return into.size();
}

absl::Status IbverbsPair::Arm() {
  ibv_cq* queue = nullptr;
  void* context = nullptr;
  unsigned events = 0;
  while (library_.verbs.get_cq_event(channel_, &queue, &context) == 0) events++;
  if (events > 0) library_.verbs.ack_cq_events(queue_, events);
  if (const int error = ibv_req_notify_cq(queue_, 0); error != 0) return ErrnoStatus(error, "arm a completion queue");
  return absl::OkStatus();
}

void IbverbsPair::Break() {
  const absl::MutexLock lock(&mutex_);
  if (broken_) return;
  broken_ = true;
  ibv_qp_attr attributes = {};
  attributes.qp_state = IBV_QPS_ERR;
  // It fails where the device has gone, which breaks it as well.
  (void)library_.verbs.modify_qp(id_->get()->qp, &attributes, IBV_QP_STATE);
  has_broken_.Signal();
}

bool IbverbsPair::broken() const {
  const absl::MutexLock lock(&mutex_);
  return broken_;
}

}  // namespace ferrite::migration
