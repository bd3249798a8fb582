// What a peer sends about a machine, changed in all manner of ways, meets a real machine: refused or taken, but nothing
// of it ends the process (R11), and what is refused changes nothing (R7).
#include <capnp/message.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/messages.h"
#include "proto/state.capnp.h"
#include "tests/fakes/whole_spec.h"
#include "tests/integration/payload_machine.h"
#include "vmm/machine/movable_machine.h"
#include "vmm/move/machine_arrival.h"
#include "vmm/move/machine_source.h"
#include "vmm/move/state_blob.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// The same changes on every run.
class Spoiler {
 public:
  // A copy of `bytes` with one to four changes, most of them in words that hold something.
  std::vector<uint8_t> operator()(const std::vector<uint8_t>& bytes) {
    std::vector<uint64_t> words(bytes.size() / sizeof(uint64_t));
    std::memcpy(words.data(), bytes.data(), words.size() * sizeof(uint64_t));
    for (uint64_t changes = 1 + Below(4); changes > 0; --changes) {
      uint64_t& word = words[Place(words)];
      switch (Below(7)) {
        case 0:
          word ^= uint64_t{1} << Below(64);
          break;
        case 1:
          word ^= Below(256) << 8 * Below(8);
          break;
        case 2:
          word = 0;
          break;
        case 3:
          word = ~uint64_t{0};
          break;
        case 4:
          word = random_();
          break;
        case 5:
          word = words[Place(words)];
          break;
        default:
          word += Below(2) == 0 ? 1 : -uint64_t{1};
          break;
      }
    }
    std::vector<uint8_t> spoilt(words.size() * sizeof(uint64_t));
    std::memcpy(spoilt.data(), words.data(), spoilt.size());
    if (Below(32) == 0) {
      spoilt.resize(Below(words.size()) * sizeof(uint64_t));
    }
    return spoilt;
  }

 private:
  uint64_t Below(uint64_t end) { return random_() % end; }
  size_t Place(const std::vector<uint64_t>& words) {
    for (int i = 0; i < 64; ++i) {
      const size_t place = Below(words.size());
      if (words[place] != 0) {
        return place;
      }
    }
    return Below(words.size());
  }

  std::mt19937_64 random_{20240229};
};

class PeerBytesTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-peer-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    const std::string disk = directory_ + "/disk";
    std::ofstream(disk).close();
    ASSERT_EQ(truncate(disk.c_str(), kMiB), 0);
    config_.memory_bytes = 64 * kMiB;
    config_.cpus = 2;
    config_.devices = {RngConfig{}, BalloonConfig{.bytes = kMiB}, DiskConfig{.id = "root", .path = disk}};
    config_.reboot_on_reset = false;
    config_.command_line = "fill=8M blk_span=1M report_ms=10";
    auto run = PayloadMachine::Run("virtio", config_);
    ASSERT_TRUE(run.ok()) << run.status();
    source_ = *std::move(run);
    ASSERT_TRUE(source_->WaitFor("balloon").ok());
    ASSERT_TRUE(source_->machine().Pause().ok());
  }
  void TearDown() override {
    source_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string directory_;
  MachineConfig config_;
  std::unique_ptr<PayloadMachine> source_;
};

TEST_F(PeerBytesTest, AnyStateIsRefusedOrLoaded) {
  capnp::MallocMessageBuilder message;
  ASSERT_TRUE(source_->machine().Save(message.initRoot<state::Machine>()).ok());
  const std::vector<uint8_t> good = EncodeState(message);
  source_.reset();
  config_.disks_elsewhere = true;
  Spoiler spoil;
  std::unique_ptr<PayloadMachine> there;
  int refused = 0;
  int loaded = 0;
  int failed = 0;
  for (int i = 0; i < 400; ++i) {
    SCOPED_TRACE(i);
    if (there == nullptr) {
      auto created = PayloadMachine::Create("virtio", config_);
      ASSERT_TRUE(created.ok()) << created.status();
      there = *std::move(created);
    }
    const std::vector<uint8_t> blob = i == 0 ? good : spoil(good);
    const absl::Status checked =
        DecodeState(blob, [&](state::Machine::Reader state) { return there->machine().CheckState(state); });
    if (!checked.ok()) {
      ++refused;
      EXPECT_FALSE(checked.message().empty());
      ASSERT_EQ(there->machine().state(), MachineState::kCreated) << "R7";
      continue;
    }
    const absl::Status status =
        DecodeState(blob, [&](state::Machine::Reader state) { return there->machine().LoadState(state); });
    ASSERT_TRUE(i != 0 || status.ok()) << status;
    if (status.ok()) {
      ++loaded;
      // Whatever it does now. The memory is another guest's: empty.
      ASSERT_TRUE(there->machine().moving().AcquireDisks().ok());
      (void)there->machine().Resume();
      (void)there->machine().Pause();
    } else {
      ++failed;
    }
    there.reset();
  }
  RecordProperty("refused", refused);
  RecordProperty("loaded", loaded);
  RecordProperty("failed", failed);
  EXPECT_GT(refused, 50);
  EXPECT_GT(loaded, 50);
}

// The payload of a MACHINE message, whose checksum was right.
absl::StatusOr<migration::Message> Receive(const std::vector<uint8_t>& payload) {
  std::vector<uint64_t> words(payload.size() / sizeof(uint64_t));
  std::memcpy(words.data(), payload.data(), payload.size());
  return migration::Decode(words);
}

TEST_F(PeerBytesTest, AnyDescriptionIsRefusedOrBuilt) {
  const Fd directory(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  MachineSource source(source_->machine(), directory);
  auto spec = migration::WholeSpec(source);
  ASSERT_TRUE(spec.ok()) << spec.status();
  std::vector<uint8_t> good = migration::Encode(migration::message::Machine{.spec = *std::move(spec)});
  good.erase(good.begin(), good.begin() + migration::kControlHeaderBytes);
  auto there = PayloadMachine::Await();
  ASSERT_TRUE(there.ok()) << there.status();
  Spoiler spoil;
  int built = 0;
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    SCOPED_TRACE(i);
    const auto arrival = MachineArrival::Create({.kvm = (*there)->host().kvm, .loop = (*there)->host().loop},
                                                {.name = "guest", .disk_from = {directory_}});
    ASSERT_TRUE(arrival.ok()) << arrival.status();
    const std::vector<uint8_t> payload = i == 0 ? good : spoil(good);
    if (payload.empty()) {
      continue;
    }
    absl::Status status;
    if (const auto received = Receive(payload); received.ok()) {
      const auto* const machine = std::get_if<migration::message::Machine>(&*received);
      status = machine != nullptr ? (*arrival)->Build(machine->spec).status() : absl::InternalError("no MACHINE");
    } else {
      status = received.status();
    }
    ASSERT_TRUE(i != 0 || status.ok()) << status;
    ++(status.ok() ? built : refused);
  }
  RecordProperty("built", built);
  RecordProperty("refused", refused);
  EXPECT_GT(refused, 50);
  EXPECT_GT(built, 10);
}

}  // namespace
}  // namespace ferrite
