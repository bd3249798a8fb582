#include "migration/channel/rdma/ibverbs_domain.h"

#include <netdb.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/channel/rdma/ibverbs_listener.h"
#include "migration/channel/rdma/ibverbs_pair.h"

namespace ferrite::migration {
namespace {

// The kernel's own limit on resolving an address and a route; how long is waited in all is the caller's deadline.
constexpr absl::Duration kMostResolving = absl::Seconds(10);

int ResolveMs(const CmWait& wait) {
  return static_cast<int>(
      std::clamp<int64_t>(absl::ToInt64Milliseconds(std::min(wait.left(), kMostResolving)), 1, 10'000));
}

// Memory that a device has pinned.
class RegisteredIbverbs final : public RegisteredMemory {
 public:
  RegisteredIbverbs(std::shared_ptr<IbverbsDomain> domain, ibv_mr* region, std::span<uint8_t> memory)
      : domain_(std::move(domain)), region_(region), memory_(memory) {}
  // ibv_dereg_mr(3) cannot fail: there are no memory windows here.
  ~RegisteredIbverbs() override { FERRITE_CHECK(domain_->library().verbs.dereg_mr(region_) == 0); }

  std::span<uint8_t> bytes() const override { return memory_; }
  uint32_t local_key() const override { return region_->lkey; }
  uint32_t remote_key() const override { return region_->rkey; }

 private:
  const std::shared_ptr<IbverbsDomain> domain_;
  ibv_mr* const region_;
  const std::span<uint8_t> memory_;
};

absl::Status RegistrationStatus(int error, size_t bytes) {
  const absl::Status status = ErrnoStatus(error, absl::StrCat("register ", bytes, " bytes of memory with the device"));
  if (error != ENOMEM && error != EAGAIN && error != ENOSPC) {
    return absl::FailedPreconditionError(status.message());
  }
  rlimit limit = {};
  if (error == ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    return absl::ResourceExhaustedError(
        absl::StrCat(status.message(), "; this process may lock ", limit.rlim_cur >> 10,
                     " KiB (RLIMIT_MEMLOCK): raise that (ulimit -l, LimitMEMLOCK=), or give it CAP_IPC_LOCK"));
  }
  return absl::ResourceExhaustedError(absl::StrCat(status.message(), "; the device or the host has no room for more"));
}

}  // namespace

absl::StatusOr<RdmaAddress> RdmaAddress::Parse(absl::string_view host) {
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(std::string(host).c_str(), nullptr, &hints, &found); error != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the address ", host, ": ", gai_strerror(error)));
  }
  RdmaAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return address;
}

void RdmaAddress::SetPort(uint16_t port) {
  // Of both families it is in the same place (ip(7), ipv6(7)).
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  reinterpret_cast<sockaddr_in*>(&storage)->sin_port = htons(port);
}

absl::StatusOr<std::shared_ptr<VerbsDomain>> IbverbsDomain::Open(std::shared_ptr<CmEvents> events,
                                                                 absl::string_view host, Verbs::End end,
                                                                 const CmWait& wait) {
  FERRITE_ASSIGN_OR_RETURN(RdmaAddress address, RdmaAddress::Parse(host));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<CmId> anchor, CmId::Create(events));
  const RdmaLibrary& library = events->library();
  const std::string what = absl::StrCat("no RDMA device ", end == Verbs::End::kHere ? "has " : "leads to ", host);
  if (end == Verbs::End::kHere) {
    if (library.cm.bind_addr(anchor->get(), address.get()) != 0) {
      return absl::UnavailableError(ErrnoStatus(what).message());
    }
  } else {
    if (library.cm.resolve_addr(anchor->get(), nullptr, address.get(), ResolveMs(wait)) != 0) {
      return absl::UnavailableError(ErrnoStatus(what).message());
    }
    FERRITE_RETURN_IF_ERROR(anchor->Await(RDMA_CM_EVENT_ADDR_RESOLVED, wait, what));
  }
  ibv_context* const device = anchor->get()->verbs;
  if (device == nullptr) return absl::UnavailableError(what);
  std::shared_ptr<IbverbsDomain> domain(
      new IbverbsDomain(std::move(events), std::move(anchor), host, address, wait.clock));
  if (const int error = library.verbs.query_device(device, &domain->attributes_); error != 0) {
    return ErrnoStatus(error, "ask the RDMA device what it can do");
  }
  domain->pd_ = library.verbs.alloc_pd(device);
  if (domain->pd_ == nullptr) return ErrnoStatus("make a protection domain of the RDMA device");
  return domain;
}

IbverbsDomain::~IbverbsDomain() {
  if (pd_ != nullptr) library().verbs.dealloc_pd(pd_);
}

absl::StatusOr<std::unique_ptr<RegisteredMemory>> IbverbsDomain::Register(std::span<uint8_t> memory,
                                                                          MemoryAccess access) {
  int flags = IBV_ACCESS_LOCAL_WRITE;
  switch (access) {
    case MemoryAccess::kLocal:
      // iWARP brings what is READ as a write from outside, by a key that it tells by itself.
      if (pd_->context->device->transport_type == IBV_TRANSPORT_IWARP) flags |= IBV_ACCESS_REMOTE_WRITE;
      break;
    case MemoryAccess::kRemoteWrite:
      flags |= IBV_ACCESS_REMOTE_WRITE;
      break;
    case MemoryAccess::kRemoteRead:
      flags |= IBV_ACCESS_REMOTE_READ;
      break;
  }
  ibv_mr* const region = library().verbs.reg_mr(pd_, memory.data(), memory.size(), flags);
  if (region == nullptr) return RegistrationStatus(errno, memory.size());
  return std::make_unique<RegisteredIbverbs>(shared_from_this(), region, memory);
}

absl::StatusOr<std::unique_ptr<QueuePairListener>> IbverbsDomain::Listen() {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<CmId> id, CmId::Create(events_));
  RdmaAddress address = address_;
  address.SetPort(0);
  return IbverbsListener::Create(shared_from_this(), std::move(id), address, clock_);
}

absl::StatusOr<std::unique_ptr<QueuePair>> IbverbsDomain::Connect(uint16_t port, absl::string_view greeting,
                                                                  const QueuePairTerms& terms, MonotonicTime deadline,
                                                                  const EventFd& cancel) {
  const std::string what = absl::StrCat("connect by rdma to ", host_, " port ", port);
  if (greeting.size() > kMostGreeting) return absl::InvalidArgumentError(absl::StrCat(what, ": too long a greeting"));
  const CmWait wait = {.clock = clock_, .deadline = deadline, .cancel = cancel};
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<CmId> id, CmId::Create(events_));
  RdmaAddress address = address_;
  address.SetPort(port);
  if (library().cm.resolve_addr(id->get(), nullptr, address.get(), ResolveMs(wait)) != 0) return ErrnoStatus(what);
  FERRITE_RETURN_IF_ERROR(id->Await(RDMA_CM_EVENT_ADDR_RESOLVED, wait, what));
  if (library().cm.resolve_route(id->get(), ResolveMs(wait)) != 0) return ErrnoStatus(what);
  FERRITE_RETURN_IF_ERROR(id->Await(RDMA_CM_EVENT_ROUTE_RESOLVED, wait, what));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<IbverbsPair> pair,
                           IbverbsPair::Create(shared_from_this(), std::move(id), terms));
  FERRITE_RETURN_IF_ERROR(Annotate(pair->Connect(greeting, wait), what));
  return pair;
}

}  // namespace ferrite::migration
