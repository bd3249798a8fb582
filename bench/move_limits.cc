#include "bench/move_limits.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "bench/raw_end.h"
#include "migration/channel/tls/tls_credentials.h"
#include "tests/fakes/tls_place.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ferrite {
namespace {

using migration::TlsSide;

constexpr size_t kPage = 4096;
constexpr size_t kHeader = 32;
constexpr size_t kFrame = 2 << 20;
constexpr uint64_t kSpareBytes = 256 << 20;
constexpr double kMs = 1e3;
constexpr double kUs = 1e6;

absl::StatusOr<std::pair<Fd, Fd>> Connect(SocketKind kind) {
  if (kind == SocketKind::kUnix) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      return ErrnoStatus("socketpair");
    }
    return std::make_pair(Fd(ends[0]), Fd(ends[1]));
  }
  const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* const name = reinterpret_cast<sockaddr*>(&address);
  if (!listener.valid() || !client.valid() || bind(listener.get(), name, length) != 0 ||
      listen(listener.get(), 1) != 0 || getsockname(listener.get(), name, &length) != 0 ||
      connect(client.get(), name, length) != 0) {
    return ErrnoStatus("connect over loopback");
  }
  Fd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const int on = 1;
  for (const Fd* end : {&client, &server}) {
    if (setsockopt(end->get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0) {
      return ErrnoStatus("TCP_NODELAY");
    }
  }
  return std::make_pair(std::move(client), std::move(server));
}

absl::StatusOr<Fd> MakeMemfd(uint64_t bytes) {
  Fd fd(memfd_create("bench", MFD_CLOEXEC));
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus("memfd_create");
  }
  return fd;
}

absl::StatusOr<Mapping> MapMemfd(const Fd& fd, uint64_t bytes) {
  FERRITE_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Create("memfd", bytes, MAP_SHARED | MAP_NORESERVE, fd.get()));
  // As a machine's memory while it moves.
  if (madvise(mapping.data(), bytes, MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
    return ErrnoStatus("MADV_NOHUGEPAGE");
  }
  return mapping;
}

// A process that runs `body`; killed with its owner, and with the benchmark, when it has not ended.
class Fork {
 public:
  explicit Fork(const std::function<absl::Status()>& body) : pid_(fork()) {
    if (pid_ != 0) {
      return;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    const absl::Status status = body();
    if (!status.ok()) {
      std::fprintf(stderr, "bench: a limit's process: %s\n", status.ToString().c_str());
    }
    _exit(status.ok() ? 0 : 1);
  }
  ~Fork() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  Fork(const Fork&) = delete;
  Fork& operator=(const Fork&) = delete;

  absl::Status Wait() {
    int status = 0;
    if (pid_ < 0 || waitpid(std::exchange(pid_, -1), &status, 0) < 0 || status != 0) {
      return absl::InternalError("a limit's process failed");
    }
    return absl::OkStatus();
  }

 private:
  pid_t pid_;
};

// What one process measured, for the one that started it.
template <typename T>
class Result {
 public:
  Result() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) == 0) {
      read_.Reset(ends[0]);
      write_.Reset(ends[1]);
    }
  }
  absl::Status Put(const T& value) {
    return write(write_.get(), &value, sizeof(value)) == sizeof(value) ? absl::OkStatus() : ErrnoStatus("result");
  }
  absl::StatusOr<T> Take() {
    T value;
    write_.Reset();
    return read(read_.get(), &value, sizeof(value)) == sizeof(value)
               ? absl::StatusOr<T>(value)
               : absl::InternalError("a limit's process gave no result");
  }

 private:
  Fd read_;
  Fd write_;
};

absl::Status SendStream(RawEnd& end, std::span<const uint8_t> source) {
  // The page tables of shared memory are not inherited.
  auto* const memory = const_cast<uint8_t*>(source.data());
  if (madvise(memory, source.size(), MADV_POPULATE_READ) != 0) {
    return ErrnoStatus("map the source");
  }
  std::array<uint8_t, kHeader> header{};
  FERRITE_RETURN_IF_ERROR(end.Read(std::span(header).first(1)));
  for (size_t at = 0; at < source.size(); at += kFrame) {
    FERRITE_RETURN_IF_ERROR(end.Write(header, source.subspan(at, std::min(kFrame, source.size() - at))));
  }
  return absl::OkStatus();
}

absl::StatusOr<double> ReceiveStream(RawEnd& end, uint64_t bytes, Target target) {
  FERRITE_ASSIGN_OR_RETURN(const Fd memfd, MakeMemfd(bytes));
  FERRITE_ASSIGN_OR_RETURN(const Mapping memory, MapMemfd(memfd, bytes));
  if (target == Target::kWarm && madvise(memory.data(), bytes, MADV_POPULATE_WRITE) != 0) {
    return ErrnoStatus("populate the target");
  }
  std::array<uint8_t, kHeader> header{};
  const double start = Now();
  FERRITE_RETURN_IF_ERROR(end.Write(std::span(header).first(1)));
  for (size_t at = 0; at < bytes; at += kFrame) {
    FERRITE_RETURN_IF_ERROR(end.Read(header));
    FERRITE_RETURN_IF_ERROR(end.Read(memory.span().subspan(at, std::min<size_t>(kFrame, bytes - at))));
  }
  return Now() - start;
}

absl::StatusOr<Fd> OpenUserfault() {
  Fd fd;
  if (const Fd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)); device.valid()) {
    fd.Reset(ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC));
  }
  if (!fd.valid()) {
    fd.Reset(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC)));
  }
  uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM, .ioctls = 0};
  if (!fd.valid() || ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    return ErrnoStatus("userfaultfd");
  }
  return fd;
}

// Answers requests until the other side has closed. The page's place in the source is the request's first word.
absl::Status ServePages(RawEnd& end, std::span<const uint8_t> source) {
  std::array<uint8_t, kHeader> header{};
  while (end.Read(header).ok()) {
    const uint64_t page = *reinterpret_cast<const uint64_t*>(header.data());
    FERRITE_RETURN_IF_ERROR(end.Write(header, source.subspan(page * kPage, kPage)));
  }
  return absl::OkStatus();
}

absl::Status HandleFaults(int userfault, RawEnd& end, uint8_t* guest, uint8_t* alias, int pages) {
  std::array<uint8_t, kHeader> header{};
  for (int i = 0; i < pages; ++i) {
    uffd_msg message;
    if (read(userfault, &message, sizeof(message)) != sizeof(message)) {
      return ErrnoStatus("read userfaultfd");
    }
    const uint64_t page = (message.arg.pagefault.address - reinterpret_cast<uint64_t>(guest)) / kPage;
    *reinterpret_cast<uint64_t*>(header.data()) = page;
    FERRITE_RETURN_IF_ERROR(end.Write(header));
    FERRITE_RETURN_IF_ERROR(end.Read(header));
    FERRITE_RETURN_IF_ERROR(end.Read({alias + page * kPage, kPage}));
    uffdio_continue request{};
    request.range = {.start = reinterpret_cast<uint64_t>(guest + page * kPage), .len = kPage};
    if (ioctl(userfault, UFFDIO_CONTINUE, &request) != 0) {
      return ErrnoStatus("UFFDIO_CONTINUE");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<FaultSeconds> FetchPages(RawEnd& end, int pages) {
  const uint64_t bytes = static_cast<uint64_t>(pages) * kPage;
  FERRITE_ASSIGN_OR_RETURN(const Fd memfd, MakeMemfd(bytes));
  FERRITE_ASSIGN_OR_RETURN(const Mapping guest, MapMemfd(memfd, bytes));
  FERRITE_ASSIGN_OR_RETURN(const Mapping alias, MapMemfd(memfd, bytes));
  FERRITE_ASSIGN_OR_RETURN(const Fd userfault, OpenUserfault());
  uffdio_register region{};
  region.range = {.start = reinterpret_cast<uint64_t>(guest.data()), .len = bytes};
  region.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
  if (ioctl(userfault.get(), UFFDIO_REGISTER, &region) != 0) {
    return ErrnoStatus("UFFDIO_REGISTER");
  }
  std::vector<int> order(static_cast<size_t>(pages));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  std::thread handler([&] {
    const absl::Status status = HandleFaults(userfault.get(), end, guest.data(), alias.data(), pages);
    if (!status.ok()) {
      std::fprintf(stderr, "bench: bare handler: %s\n", status.ToString().c_str());
      _exit(1);
    }
  });
  Samples waits;
  for (const int page : order) {
    const double start = Now();
    *const_cast<volatile uint8_t*>(guest.data() + static_cast<size_t>(page) * kPage) = 1;
    waits.Add(Now() - start);
  }
  handler.join();
  return FaultSeconds{.p50 = waits.Quantile(0.5), .p99 = waits.Quantile(0.99)};
}

// What both ends of a connection of that kind need, made before there are two processes.
class Security {
 public:
  static absl::StatusOr<Security> Make(SocketKind kind) {
    Security made;
    if (kind == SocketKind::kTls) {
      made.place_ = std::make_unique<migration::TlsPlace>();
      FERRITE_ASSIGN_OR_RETURN(made.source_, migration::TlsCredentials::Load(made.place_->options(), TlsSide::kSource));
      FERRITE_ASSIGN_OR_RETURN(made.destination_,
                               migration::TlsCredentials::Load(made.place_->options(), TlsSide::kDestination));
    }
    return made;
  }

  absl::StatusOr<RawEnd> Wrap(int fd, TlsSide side) const {
    if (place_ == nullptr) {
      return RawEnd(fd);
    }
    FERRITE_ASSIGN_OR_RETURN(SSL* const ssl, side == TlsSide::kSource
                                                 ? source_->NewConnection(place_->options().hostname)
                                                 : destination_->NewConnection(""));
    return RawEnd::ShakeHands(fd, ssl);
  }

 private:
  std::unique_ptr<migration::TlsPlace> place_;
  std::shared_ptr<const migration::TlsCredentials> source_;
  std::shared_ptr<const migration::TlsCredentials> destination_;
};

// Runs `server` on one end of each of some connections and `client` on the other, in a process each; returns the
// clients' results.
template <typename T>
absl::StatusOr<std::vector<T>> Between(SocketKind kind, size_t connections,
                                       const std::function<absl::Status(RawEnd&, size_t)>& server,
                                       const std::function<absl::StatusOr<T>(RawEnd&, size_t)>& client) {
  FERRITE_ASSIGN_OR_RETURN(const Security security, Security::Make(kind));
  std::vector<Result<T>> results(connections);
  std::vector<std::unique_ptr<Fork>> processes;
  for (size_t i = 0; i < connections; ++i) {
    FERRITE_ASSIGN_OR_RETURN(auto ends, Connect(kind));
    processes.push_back(std::make_unique<Fork>([&]() -> absl::Status {
      ends.second.Reset();
      FERRITE_ASSIGN_OR_RETURN(RawEnd end, security.Wrap(ends.first.get(), TlsSide::kSource));
      return server(end, i);
    }));
    ends.first.Reset();
    processes.push_back(std::make_unique<Fork>([&]() -> absl::Status {
      FERRITE_ASSIGN_OR_RETURN(RawEnd end, security.Wrap(ends.second.get(), TlsSide::kDestination));
      FERRITE_ASSIGN_OR_RETURN(const T value, client(end, i));
      return results[i].Put(value);
    }));
  }
  std::vector<T> taken;
  for (const auto& process : processes) {
    FERRITE_RETURN_IF_ERROR(process->Wait());
  }
  for (Result<T>& result : results) {
    FERRITE_ASSIGN_OR_RETURN(const T value, result.Take());
    taken.push_back(value);
  }
  return taken;
}

}  // namespace

const char* SocketKindName(SocketKind kind) {
  const char* const names[] = {"tcp", "unix", "tls"};
  return names[static_cast<size_t>(kind)];
}

absl::StatusOr<Mapping> MakeIncompressible(uint64_t bytes) {
  FERRITE_ASSIGN_OR_RETURN(const Fd memfd, MakeMemfd(bytes));
  FERRITE_ASSIGN_OR_RETURN(Mapping mapping, MapMemfd(memfd, bytes));
  if (madvise(mapping.data(), bytes, MADV_POPULATE_WRITE) != 0) {
    return ErrnoStatus("populate the source");
  }
  std::mt19937_64 random(1);
  auto* const words = reinterpret_cast<uint64_t*>(mapping.data());
  std::generate(words, words + bytes / sizeof(uint64_t), std::ref(random));
  return mapping;
}

absl::Status TouchFreeMemory(uint64_t bytes) {
  Fork helper([&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(const Mapping memory, Mapping::Create("touch", bytes, MAP_PRIVATE | MAP_ANONYMOUS));
    return madvise(memory.data(), bytes, MADV_POPULATE_WRITE) == 0 ? absl::OkStatus() : ErrnoStatus("touch memory");
  });
  return helper.Wait();
}

absl::StatusOr<double> RawStreamSeconds(SocketKind kind, size_t streams, std::span<const uint8_t> source, Target target,
                                        bool spin) {
  std::optional<Fork> spinner;
  if (spin) {
    spinner.emplace([]() -> absl::Status {
      for (;;) {
        __builtin_ia32_pause();
      }
    });
  }
  const auto share = [&](size_t stream) {
    const size_t frames = source.size() / kFrame;
    const size_t first = frames * stream / streams * kFrame;
    const size_t end = stream + 1 < streams ? frames * (stream + 1) / streams * kFrame : source.size();
    return source.subspan(first, end - first);
  };
  FERRITE_ASSIGN_OR_RETURN(
      const std::vector<double> seconds,
      Between<double>(
          kind, streams, [&](RawEnd& end, size_t stream) { return SendStream(end, share(stream)); },
          [&](RawEnd& end, size_t stream) { return ReceiveStream(end, share(stream).size(), target); }));
  return *std::max_element(seconds.begin(), seconds.end());
}

absl::StatusOr<FaultSeconds> BareFaultSeconds(SocketKind kind, int pages) {
  FERRITE_ASSIGN_OR_RETURN(const Mapping source, MakeIncompressible(static_cast<uint64_t>(pages) * kPage));
  FERRITE_ASSIGN_OR_RETURN(const std::vector<FaultSeconds> seconds,
                           Between<FaultSeconds>(
                               kind, 1, [&](RawEnd& end, size_t) { return ServePages(end, source.span()); },
                               [&](RawEnd& end, size_t) { return FetchPages(end, pages); }));
  return seconds.at(0);
}

absl::Status MoveLimits::Add(SocketKind kind, std::span<const uint8_t> source, size_t streams) {
  const auto add = [&](Samples& samples, Target target, bool spin) -> absl::Status {
    FERRITE_RETURN_IF_ERROR(TouchFreeMemory(source.size() + kSpareBytes));
    FERRITE_ASSIGN_OR_RETURN(const double seconds, RawStreamSeconds(kind, streams, source, target, spin));
    samples.Add(seconds * kMs);
    return absl::OkStatus();
  };
  stream_bytes = static_cast<double>(source.size());
  FERRITE_RETURN_IF_ERROR(add(warm_ms, Target::kWarm, false));
  FERRITE_RETURN_IF_ERROR(add(fresh_ms, Target::kFresh, false));
  FERRITE_RETURN_IF_ERROR(add(fresh_beside_vcpu_ms, Target::kFresh, true));
  FERRITE_ASSIGN_OR_RETURN(const FaultSeconds faults, BareFaultSeconds(kind, kFaults));
  fault_p50_us.Add(faults.p50 * kUs);
  fault_p99_us.Add(faults.p99 * kUs);
  return absl::OkStatus();
}

void MoveLimits::Print(SocketKind kind, size_t streams) const {
  absl::PrintF("limits over %s, %d %s, of %d MiB and %d pages\n", SocketKindName(kind), streams,
               streams == 1 ? "stream" : "streams", static_cast<uint64_t>(stream_bytes) >> 20, kFaults);
  const auto print = [&](const char* what, const Samples& samples) {
    absl::PrintF("    %s: %s, %.2f GiB/s\n", what, samples.Summary("ms"),
                 stream_bytes / static_cast<double>(1 << 30) / samples.Median() * kMs);
  };
  print("raw stream into mapped memory", warm_ms);
  print("raw stream into fresh memory", fresh_ms);
  print("raw stream into fresh memory beside a process that polls", fresh_beside_vcpu_ms);
  absl::PrintF("    a page through a bare handler: p50 %s, p99 %s\n", fault_p50_us.Summary("us"),
               fault_p99_us.Summary("us"));
}

}  // namespace ferrite
