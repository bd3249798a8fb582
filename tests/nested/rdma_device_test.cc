// What only a device can show. Other processes of a test are this program, too: `PROGRAM peer`, `PROGRAM limited`.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/monotonic.h"
#include "base/thread_maker.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "migration/channel/rdma/ibverbs.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/rdma/verbs_rig.h"
#include "tests/nested/program.h"

namespace ferrite::migration {
namespace {

constexpr size_t kPages = 64;
constexpr char kGreeting[] = "the peer's";

// Listens, says where and by which key it may be written to, and lives until it is killed or its input ends.
int BePeer() {
  ThreadMaker threads;
  const EventFd cancel = *EventFd::Create();
  const std::unique_ptr<Verbs> verbs = *LoadIbverbs(RealClock(), threads);
  const std::shared_ptr<VerbsDomain> domain = *verbs->Open(TestDevice(), Verbs::End::kHere, Soon(), cancel);
  const TestMemory memory(*domain, kPages, MemoryAccess::kRemoteWrite);
  const std::unique_ptr<QueuePairListener> listener = *domain->Listen();
  std::printf("%d %llu %u\n", listener->port(), static_cast<unsigned long long>(memory.Remote(0).address),
              memory.Remote(0).key);
  std::fflush(stdout);
  const auto pair = listener->Accept(kGreeting, {.remote_write = true}, Soon(), cancel);
  if (!pair.ok()) {
    std::printf("%s\n", pair.status().ToString().c_str());
    return 1;
  }
  char byte = 0;
  return static_cast<int>(read(STDIN_FILENO, &byte, 1));
}

// Says what becomes of a registration of 1 MiB where 64 KiB may be locked, without the right to lock more.
int BeLimited() {
  ThreadMaker threads;
  const EventFd cancel = *EventFd::Create();
  const std::unique_ptr<Verbs> verbs = *LoadIbverbs(RealClock(), threads);
  const std::shared_ptr<VerbsDomain> domain = *verbs->Open(TestDevice(), Verbs::End::kHere, Soon(), cancel);
  const Mapping memory = *Mapping::Create("memory of a test", 1 << 20, MAP_PRIVATE | MAP_ANONYMOUS);
  const rlimit limit = {.rlim_cur = 64 << 10, .rlim_max = 64 << 10};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setuid(65534) != 0) return 1;
  std::printf("%s\n", domain->Register(memory.span(), MemoryAccess::kRemoteWrite).status().ToString().c_str());
  return domain->Register(memory.span().first(kPage), MemoryAccess::kRemoteWrite).ok() ? 0 : 2;
}

std::string OwnPath() {
  std::array<char, 256> path = {};
  EXPECT_GT(readlink("/proc/self/exe", path.data(), path.size() - 1), 0);
  return path.data();
}

class RdmaPeerTest : public testing::Test {
 protected:
  RdmaPeerTest() {
    domain_ = *verbs_->Open(TestDevice(), Verbs::End::kThere, Soon(), cancel_);
    peer_ = *Program::Start({OwnPath(), "peer"});
    const std::vector<std::string> said = absl::StrSplit(*peer_->ReadUntil("\n", absl::Seconds(60)), ' ');
    int port = 0;
    EXPECT_TRUE(said.size() == 3 && absl::SimpleAtoi(said[0], &port) && absl::SimpleAtoi(said[1], &to_.address) &&
                absl::SimpleAtoi(said[2], &to_.key));
    auto pair = domain_->Connect(static_cast<uint16_t>(port), kGreeting, {}, Soon(), cancel_);
    EXPECT_TRUE(pair.ok()) << pair.status();
    pair_ = *std::move(pair);
    memory_ = std::make_unique<TestMemory>(*domain_, kPages, MemoryAccess::kLocal, 1);
  }

  void KillPeer() {
    killed_ = RealClock().Now();
    kill(peer_->pid(), SIGKILL);
  }
  // Without the thread that takes the events it may be 13 s.
  void ExpectKnownSoon(absl::string_view what) const {
    const absl::Duration took = RealClock().Now() - killed_;
    std::printf("%.*s: the survivor knows it after %.0f ms\n", static_cast<int>(what.size()), what.data(),
                absl::ToDoubleMilliseconds(took));
    EXPECT_LT(took, absl::Seconds(3));
    EXPECT_TRUE(pair_->broken());
  }

  ThreadMaker threads_;
  const EventFd cancel_ = *EventFd::Create();
  const std::unique_ptr<Verbs> verbs_ = *LoadIbverbs(RealClock(), threads_);
  std::shared_ptr<VerbsDomain> domain_;
  std::unique_ptr<Program> peer_;
  RemotePiece to_;
  std::unique_ptr<TestMemory> memory_;  // before the queue pair: it goes behind that
  std::unique_ptr<QueuePair> pair_;
  MonotonicTime killed_;
};

TEST_F(RdmaPeerTest, WhoWaitsHearsOfADeathAtOnce) {
  ASSERT_FALSE(IsReadable(pair_->fd()));
  KillPeer();
  EXPECT_TRUE(IsReadable(pair_->fd(), absl::Seconds(60)));
  ExpectKnownSoon("idle");
}

TEST_F(RdmaPeerTest, WhoWritesHearsOfADeathAtOnce) {
  size_t good = 0;
  absl::Status end;
  while (end.ok() && good < 100'000) {
    end = pair_->PostWrite(good, memory_->Local(0, kPages * kPage), to_);
    if (!end.ok()) break;
    if (good == 20) KillPeer();
    const std::vector<Completion> done = Await(*pair_, 1, absl::Seconds(60));
    ASSERT_EQ(done.size(), 1u);
    end = done[0].status;
    good += end.ok() ? 1 : 0;
  }
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable) << end;
  EXPECT_GE(good, 20u);
  ExpectKnownSoon("writing");
}

class RdmaDeviceTest : public testing::Test {
 protected:
  ThreadMaker threads_;
  const EventFd cancel_ = *EventFd::Create();
  const std::unique_ptr<Verbs> verbs_ = *LoadIbverbs(RealClock(), threads_);
};

TEST_F(RdmaDeviceTest, IsListed) {
  const auto devices = verbs_->Devices();
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(devices->size(), 1u);
  const VerbsDevice& device = (*devices)[0];
  EXPECT_EQ(device.name, "rxe0");
  EXPECT_EQ(device.transport, "RoCE");
  EXPECT_EQ(device.port_state, "active");
  EXPECT_GT(device.most_registrations, 0u);
  EXPECT_GT(device.most_queue_pairs, 0u);
  EXPECT_GE(device.most_registration, 1u << 30);
  EXPECT_FALSE(device.on_demand_paging);
  EXPECT_EQ(device.net_devices, std::vector<std::string>{"dummy0"});
}

TEST_F(RdmaDeviceTest, AnAddressWithoutOneIsRefused) {
  for (const Verbs::End end : {Verbs::End::kHere, Verbs::End::kThere}) {
    // lo is no device, and nothing leads there.
    const auto none = verbs_->Open(end == Verbs::End::kHere ? "127.0.0.1" : "10.99.0.1", end, Soon(), cancel_);
    EXPECT_EQ(none.status().code(), absl::StatusCode::kUnavailable) << none.status();
    EXPECT_EQ(verbs_->Open("localhost", end, Soon(), cancel_).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(RdmaDeviceTest, TellsWhichLimitARegistrationMet) {
  const auto limited = RunProgram({OwnPath(), "limited"}, absl::Seconds(60));
  ASSERT_TRUE(limited.ok()) << limited.status();
  EXPECT_EQ(limited->code, 0) << limited->output;
  EXPECT_THAT(limited->output, testing::StartsWith("RESOURCE_EXHAUSTED: "));
  EXPECT_THAT(limited->output, testing::HasSubstr("may lock 64 KiB (RLIMIT_MEMLOCK)"));
}

// R1: registered memory would not fault. The kernel refuses it before 6.18, where it waits for who handles the faults.
TEST_F(RdmaDeviceTest, MemoryUnderUserfaultfdCannotBeRegistered) {
  const auto domain = *verbs_->Open(TestDevice(), Verbs::End::kHere, Soon(), cancel_);
  const Mapping memory = *Mapping::Create("memory of a test", 4 * kPage, MAP_PRIVATE | MAP_ANONYMOUS);
  const Fd faults(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api = {.api = UFFD_API};
  uffdio_register all = {.range = {.start = reinterpret_cast<uintptr_t>(memory.data()), .len = memory.size()},
                         .mode = UFFDIO_REGISTER_MODE_MISSING};
  ASSERT_TRUE(faults.valid() && ioctl(faults.get(), UFFDIO_API, &api) == 0 &&
              ioctl(faults.get(), UFFDIO_REGISTER, &all) == 0);
  const auto registered = domain->Register(memory.span(), MemoryAccess::kRemoteWrite);
  EXPECT_EQ(registered.status().code(), absl::StatusCode::kFailedPrecondition) << registered.status();
}

}  // namespace
}  // namespace ferrite::migration

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "peer") return ferrite::migration::BePeer();
  if (argc > 1 && std::string(argv[1]) == "limited") return ferrite::migration::BeLimited();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
