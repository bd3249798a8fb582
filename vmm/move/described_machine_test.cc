#include "vmm/move/described_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace ferrite {
namespace {

using ::testing::HasSubstr;

migration::MachineSpec Good() {
  capnp::MallocMessageBuilder message;
  auto out = message.initRoot<state::MachineDescription>();
  auto disk = out.initDisks(1)[0];
  disk.setId("root");
  disk.setPath("/images/root.img");
  disk.setBytes(4096);
  return EncodeDescription(message);
}

absl::Status Ignore(state::MachineDescription::Reader) { return absl::OkStatus(); }

TEST(DescribedMachineTest, ComesBack) {
  const migration::MachineSpec spec = Good();
  EXPECT_EQ(spec.kind, "ferrite");
  std::string path;
  EXPECT_EQ(DecodeDescription(spec,
                              [&](state::MachineDescription::Reader in) {
                                path = in.getDisks()[0].getPath().cStr();
                                return absl::OkStatus();
                              }),
            absl::OkStatus());
  EXPECT_EQ(path, "/images/root.img");
  EXPECT_EQ(DecodeDescription(spec, [](state::MachineDescription::Reader) { return absl::AbortedError("no"); }),
            absl::AbortedError("no"));
}

TEST(DescribedMachineTest, AnotherMonitorsIsRefused) {
  migration::MachineSpec other = Good();
  other.kind = "qe\x1bmu";
  EXPECT_EQ(DecodeDescription(other, Ignore),
            absl::FailedPreconditionError(
                "the machine is described as 'qe?mu' does, version 1; this side reads 'ferrite', version 1"));
  migration::MachineSpec newer = Good();
  newer.version = 2;
  EXPECT_EQ(DecodeDescription(newer, Ignore),
            absl::FailedPreconditionError(
                "the machine is described as 'ferrite' does, version 2; this side reads 'ferrite', version 1"));
}

// R11
TEST(DescribedMachineTest, WhatIsNoDescriptionIsAnError) {
  migration::MachineSpec odd = Good();
  odd.machine.pop_back();
  EXPECT_THAT(DecodeDescription(odd, Ignore).message(), HasSubstr("description is no whole number of words"));
  migration::MachineSpec empty = Good();
  empty.machine.clear();
  EXPECT_THAT(DecodeDescription(empty, Ignore).message(), HasSubstr("description is damaged"));
  migration::MachineSpec cut = Good();
  cut.machine.resize(cut.machine.size() / 16 * 8);
  EXPECT_THAT(DecodeDescription(cut, Ignore).message(), HasSubstr("description is damaged"));
  // It is found only while it is read.
  migration::MachineSpec pointer = Good();
  const auto read = [](state::MachineDescription::Reader in) {
    uint64_t bytes = 0;
    for (const state::Disk::Reader disk : in.getDisks()) {
      bytes += disk.getId().size() + disk.getPath().size();
    }
    return bytes > 0 ? absl::OkStatus() : absl::InternalError("nothing");
  };
  int refused = 0;
  for (size_t i = 8; i < pointer.machine.size(); ++i) {
    pointer = Good();
    pointer.machine[i] ^= 0x7f;
    refused += DecodeDescription(pointer, read).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 5);
}

}  // namespace
}  // namespace ferrite
