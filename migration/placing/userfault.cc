#include "migration/placing/userfault.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "memory/guest_address.h"

// Newer than Debian 12's headers (Linux 6.6).
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
struct uffdio_poison {
  struct uffdio_range range;
  __u64 mode;
  __s64 updated;
};
#endif

// And than theirs again (Linux 6.8).
#ifndef UFFDIO_MOVE
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
struct uffdio_move {
  __u64 dst;
  __u64 src;
  __u64 len;
  __u64 mode;
  __s64 move;
};
#endif

namespace ferrite::migration {
namespace {

// Asks for `features`, and learns all that the kernel has.
absl::StatusOr<uint64_t> Handshake(int fd, uint64_t features) {
  uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
  if (ioctl(fd, UFFDIO_API, &api) < 0) {
    return ErrnoStatus("UFFDIO_API");
  }
  return api.features;
}

UserfaultFeatures FromBits(uint64_t bits) {
  return {
      .missing_shmem = (bits & UFFD_FEATURE_MISSING_SHMEM) != 0,
      .missing_hugetlb = (bits & UFFD_FEATURE_MISSING_HUGETLBFS) != 0,
      .minor_shmem = (bits & UFFD_FEATURE_MINOR_SHMEM) != 0,
      .minor_hugetlb = (bits & UFFD_FEATURE_MINOR_HUGETLBFS) != 0,
      .poison = (bits & UFFD_FEATURE_POISON) != 0,
      .move = (bits & Userfault::kMoveFeature) != 0,
      .thread_id = (bits & UFFD_FEATURE_THREAD_ID) != 0,
  };
}

uffdio_range ToRange(std::span<uint8_t> range) {
  return {.start = reinterpret_cast<uint64_t>(range.data()), .len = range.size()};
}

absl::Status Failed(absl::string_view what, std::span<uint8_t> range, int error) {
  return ErrnoStatus(error, absl::StrFormat("%s of %d bytes at %p", what, range.size(), range.data()));
}

}  // namespace

uint64_t Userfault::WantedFeatures() {
  return UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_SHMEM |
         UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_POISON | kMoveFeature | UFFD_FEATURE_THREAD_ID;
}

absl::StatusOr<std::unique_ptr<Userfault>> Userfault::Create(const UserfaultOpener& opener, uint64_t wanted,
                                                             size_t descriptors) {
  FERRITE_ASSIGN_OR_RETURN(Fd fd, opener());
  absl::StatusOr<uint64_t> available = Handshake(fd.get(), wanted);
  if (absl::IsInvalidArgument(available.status())) {
    // The kernel lacks some of them, does not say which, and leaves the descriptor as it was. Another one, of which
    // none is asked, says what there is; asking uses it up.
    FERRITE_ASSIGN_OR_RETURN(const Fd other, opener());
    FERRITE_ASSIGN_OR_RETURN(const uint64_t offered, Handshake(other.get(), 0));
    available = Handshake(fd.get(), offered & wanted);
  }
  FERRITE_RETURN_IF_ERROR(available.status());
  std::vector<Fd> fds;
  fds.push_back(std::move(fd));
  // With fewer of them it is slower, and nothing else.
  while (fds.size() < std::min(descriptors, kMostDescriptors)) {
    absl::StatusOr<Fd> next = opener();
    if (!next.ok() || !Handshake(next->get(), *available & wanted).ok()) {
      break;
    }
    fds.push_back(*std::move(next));
  }
  return std::unique_ptr<Userfault>(new Userfault(std::move(fds), FromBits(*available & wanted)));
}

void Userfault::Divide(std::span<uint8_t> range, uint64_t host_page) {
  // Huge pages of other kinds stay whole, too.
  const size_t alignment = std::max(host_page, kBlockPages * kPageBytes);
  divided_.push_back(
      {.range = range, .share = std::max(range.size() / fds_.size() / alignment, size_t{1}) * alignment});
}

Userfault::Piece Userfault::FrontOf(std::span<uint8_t> range) const {
  for (const Divided& all : divided_) {
    const uint8_t* const begin = all.range.data();
    if (range.data() >= begin && range.data() < begin + all.range.size()) {
      const auto offset = static_cast<size_t>(range.data() - begin);
      const size_t index = std::min(offset / all.share, fds_.size() - 1);
      const size_t end = index + 1 < fds_.size() ? (index + 1) * all.share : all.range.size();
      return {.fd = fds_[index].get(), .range = range.first(std::min(range.size(), end - offset))};
    }
  }
  return {.fd = fds_[0].get(), .range = range};
}

absl::Status Userfault::ForEachShare(absl::string_view what, std::span<uint8_t> range,
                                     absl::FunctionRef<int(int fd, std::span<uint8_t> piece)> step) const {
  absl::Status status;
  while (!range.empty()) {
    const Piece piece = FrontOf(range);
    if (step(piece.fd, piece.range) < 0) {
      status.Update(Failed(what, piece.range, errno));
    }
    range = range.subspan(piece.range.size());
  }
  return status;
}

absl::Status Userfault::Register(std::span<uint8_t> range, bool minor) {
  return ForEachShare("UFFDIO_REGISTER", range, [minor](int fd, std::span<uint8_t> piece) {
    uffdio_register request{};
    request.range = ToRange(piece);
    request.mode = UFFDIO_REGISTER_MODE_MISSING | (minor ? UFFDIO_REGISTER_MODE_MINOR : 0);
    return ioctl(fd, UFFDIO_REGISTER, &request);
  });
}

absl::Status Userfault::Unregister(std::span<uint8_t> range) {
  FERRITE_RETURN_IF_ERROR(ForEachShare("UFFDIO_UNREGISTER", range, [](int fd, std::span<uint8_t> piece) {
    uffdio_range request = ToRange(piece);
    return ioctl(fd, UFFDIO_UNREGISTER, &request);
  }));
  // The kernel wakes who waits, and takes the range away from us after that: who faults in between (without the lock of
  // the whole address space, Linux 6.4 and later) is woken by nobody.
  return Wake(range);
}

absl::StatusOr<size_t> Userfault::Read(std::span<Fault> out, size_t descriptor) {
  std::array<uffd_msg, 32> messages;
  const size_t room = std::min(out.size(), messages.size());
  ssize_t n = 0;
  do {
    n = read(fds_[descriptor].get(), messages.data(), room * sizeof(uffd_msg));
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno == EAGAIN) {
      return 0;
    }
    return ErrnoStatus("read userfaultfd");
  }
  size_t count = 0;
  for (size_t i = 0; i < static_cast<size_t>(n) / sizeof(uffd_msg); ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) {
      continue;
    }
    const auto& fault = messages[i].arg.pagefault;
    out[count++] = {.address = fault.address & ~uint64_t{4095},
                    .thread = features_.thread_id ? static_cast<pid_t>(fault.feat.ptid) : 0,
                    .minor = (fault.flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0};
  }
  return count;
}

namespace {

// Runs one of the placing ioctls until all of `range` is there; `placed` of its bytes, from the front, are also after
// an error. `step` returns how many bytes it placed (it may be fewer than asked for), or the negative errno when it
// placed none. With `new_only` a page that is there is an error, too.
absl::Status PlaceAll(Userfault& userfault, absl::string_view what, std::span<uint8_t> range, uint64_t host_page,
                      uint64_t& placed, absl::FunctionRef<int64_t(std::span<uint8_t>)> step, bool new_only = false) {
  const uint8_t* const begin = range.data();
  for (placed = 0; !range.empty(); placed = static_cast<uint64_t>(range.data() - begin)) {
    const int64_t done = step(range);
    if (done > 0) {
      range = range.subspan(static_cast<size_t>(done));
    } else if (done == -EEXIST && !new_only) {
      // It is there already: only who waits must know.
      FERRITE_RETURN_IF_ERROR(userfault.Wake(range.first(host_page)));
      range = range.subspan(host_page);
    } else if (done != -EAGAIN) {
      return Failed(what, range, static_cast<int>(-done));
    }
  }
  return absl::OkStatus();
}

// The result in PlaceAll's terms: the kernel reports bytes placed, or the errno if none, in a field of the request.
int64_t Outcome(int result, int64_t placed) {
  if (result == 0 || placed > 0) {
    return placed;
  }
  return -errno;
}

}  // namespace

absl::Status Userfault::Continue(std::span<uint8_t> range, uint64_t host_page, uint64_t& placed) {
  return PlaceAll(*this, "UFFDIO_CONTINUE", range, host_page, placed, [this](std::span<uint8_t> rest) {
    uffdio_continue request{};
    const Piece piece = FrontOf(rest);
    request.range = ToRange(piece.range);
    const int result = ioctl(piece.fd, UFFDIO_CONTINUE, &request);
    return Outcome(result, request.mapped);
  });
}

uint64_t Userfault::Move(std::span<uint8_t> range, uint8_t* source) {
  // It fails without having done anything, and can be had at once, when the mapping is being changed elsewhere.
  constexpr int kMostTries = 16;
  uint64_t moved = 0;
  for (int i = 0; i < kMostTries && moved < range.size(); ++i) {
    const Piece piece = FrontOf(range.subspan(moved));
    uffdio_move request{};
    request.dst = reinterpret_cast<uint64_t>(range.data() + moved);
    request.src = reinterpret_cast<uint64_t>(source + moved);
    request.len = piece.range.size();
    const int result = ioctl(piece.fd, UFFDIO_MOVE, &request);
    moved += request.move > 0 ? static_cast<uint64_t>(request.move) : 0;
    if (result != 0 && errno != EAGAIN) {
      break;
    }
  }
  return moved;
}

absl::Status Userfault::Copy(std::span<uint8_t> range, const uint8_t* source, uint64_t host_page, uint64_t& placed) {
  const uint8_t* const base = range.data();
  return PlaceAll(*this, "UFFDIO_COPY", range, host_page, placed, [this, base, source](std::span<uint8_t> rest) {
    return CopyOnce(rest, source + (rest.data() - base));
  });
}

absl::Status Userfault::CopyNew(std::span<uint8_t> range, const uint8_t* source, uint64_t host_page, uint64_t& placed) {
  const uint8_t* const base = range.data();
  return PlaceAll(
      *this, "UFFDIO_COPY", range, host_page, placed,
      [this, base, source](std::span<uint8_t> rest) { return CopyOnce(rest, source + (rest.data() - base)); },
      /*new_only=*/true);
}

int64_t Userfault::CopyOnce(std::span<uint8_t> range, const uint8_t* source) {
  const Piece piece = FrontOf(range);
  uffdio_copy request{};
  request.dst = reinterpret_cast<uint64_t>(range.data());
  request.src = reinterpret_cast<uint64_t>(source);
  request.len = piece.range.size();
  const int result = ioctl(piece.fd, UFFDIO_COPY, &request);
  return Outcome(result, request.copy);
}

absl::Status Userfault::ZeroPage(std::span<uint8_t> range, uint64_t host_page) {
  uint64_t placed = 0;
  return PlaceAll(*this, "UFFDIO_ZEROPAGE", range, host_page, placed, [this](std::span<uint8_t> rest) {
    uffdio_zeropage request{};
    const Piece piece = FrontOf(rest);
    request.range = ToRange(piece.range);
    const int result = ioctl(piece.fd, UFFDIO_ZEROPAGE, &request);
    return Outcome(result, request.zeropage);
  });
}

absl::Status Userfault::Poison(std::span<uint8_t> range, uint64_t host_page) {
  uint64_t placed = 0;
  return PlaceAll(*this, "UFFDIO_POISON", range, host_page, placed, [this](std::span<uint8_t> rest) {
    uffdio_poison request{};
    const Piece piece = FrontOf(rest);
    request.range = ToRange(piece.range);
    const int result = ioctl(piece.fd, UFFDIO_POISON, &request);
    return Outcome(result, request.updated);
  });
}

absl::Status Userfault::Wake(std::span<uint8_t> range) {
  return ForEachShare("UFFDIO_WAKE", range, [](int fd, std::span<uint8_t> piece) {
    uffdio_range request = ToRange(piece);
    return ioctl(fd, UFFDIO_WAKE, &request);
  });
}

}  // namespace ferrite::migration
