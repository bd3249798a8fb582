// What a side learns of another one that is killed, over a device. The other side is this program, too: `PROGRAM peer`.
#include <signal.h>
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
#include "base/monotonic.h"
#include "base/thread_maker.h"
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

class RdmaPeerTest : public testing::Test {
 protected:
  RdmaPeerTest() {
    domain_ = *verbs_->Open(TestDevice(), Verbs::End::kThere, Soon(), cancel_);
    std::array<char, 256> own = {};
    EXPECT_GT(readlink("/proc/self/exe", own.data(), own.size() - 1), 0);
    peer_ = *Program::Start({own.data(), "peer"});
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

TEST_F(RdmaPeerTest, TheDeviceIsListed) {
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
  const auto none = verbs_->Open("127.0.0.1", Verbs::End::kHere, Soon(), cancel_);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnavailable) << none.status();
}

}  // namespace
}  // namespace ferrite::migration

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "peer") return ferrite::migration::BePeer();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
