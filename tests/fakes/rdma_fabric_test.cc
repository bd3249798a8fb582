#include "tests/fakes/rdma_fabric.h"

#include <sys/mman.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "migration/channel/rdma/verbs_rig.h"

namespace ferrite::migration {
namespace {

using Held = RdmaFabric::Held;
using End = Verbs::End;

class RdmaFabricTest : public testing::Test {
 protected:
  RdmaFabricTest() {
    source_ = *fabric_.Open("", End::kThere, Soon(), cancel_);
    destination_ = *fabric_.Open("", End::kHere, Soon(), cancel_);
    listener_ = *destination_->Listen();
    Connect(source_pair_, destination_pair_);
    from_.emplace(*source_, 8, MemoryAccess::kLocal, 1);
    to_.emplace(*destination_, 8, MemoryAccess::kRemoteWrite);
    message_.emplace(*destination_, 1, MemoryAccess::kLocal);
  }

  void Connect(std::unique_ptr<QueuePair>& source, std::unique_ptr<QueuePair>& destination) {
    const Thread connects = StartOrDie("connects", [&] {
      source = *source_->Connect(listener_->port(), "x", {.remote_read = true}, Soon(), cancel_);
    });
    destination = *listener_->Accept("x", {.remote_write = true}, Soon(), cancel_);
  }
  absl::Status WritePage(size_t page) {
    return source_pair_->PostWrite(page, from_->Local(page * kPage, kPage), to_->Remote(page * kPage));
  }
  bool HasCome(size_t page) const { return to_->data()[page * kPage + 1] == from_->data()[page * kPage + 1]; }
  static size_t Taken(QueuePair& pair) {
    std::array<Completion, 16> done;
    return *pair.TakeCompletions(done);
  }

  const EventFd cancel_ = *EventFd::Create();
  RdmaFabric fabric_;
  std::shared_ptr<VerbsDomain> source_;
  std::shared_ptr<VerbsDomain> destination_;
  std::unique_ptr<QueuePairListener> listener_;
  std::unique_ptr<QueuePair> source_pair_;
  std::unique_ptr<QueuePair> destination_pair_;
  std::optional<TestMemory> from_;
  std::optional<TestMemory> to_;
  std::optional<TestMemory> message_;
};

TEST_F(RdmaFabricTest, HoldsWork) {
  fabric_.Hold(Held::kWork, 0);
  ASSERT_TRUE(WritePage(0).ok());
  EXPECT_EQ(Taken(*source_pair_), 0u);
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kWork, 1));
  EXPECT_FALSE(HasCome(0));
  fabric_.LetGo(Held::kWork);
  EXPECT_TRUE(HasCome(0));
  EXPECT_EQ(Taken(*source_pair_), 1u);
  EXPECT_EQ(fabric_.counts().written_bytes, kPage);
}

TEST_F(RdmaFabricTest, HoldsCompletionsInTheirOrder) {
  fabric_.Hold(Held::kCompletions);
  ASSERT_TRUE(WritePage(0).ok());
  EXPECT_TRUE(HasCome(0));
  EXPECT_EQ(Taken(*source_pair_), 0u);
  EXPECT_FALSE(IsReadable(source_pair_->fd()));
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kCompletions, 1));
  fabric_.LetGo(Held::kCompletions);
  EXPECT_TRUE(IsReadable(source_pair_->fd()));
  EXPECT_EQ(Taken(*source_pair_), 1u);
}

// R1: what comes from outside reaches memory neither when it is deregistered nor over a queue pair that is broken.
TEST_F(RdmaFabricTest, ALateWriteOfOneThatIsGoneDoesNotLandBehindDeregistration) {
  fabric_.Hold(Held::kWork);
  ASSERT_TRUE(WritePage(0).ok());
  source_pair_->Break();
  to_->Deregister();
  fabric_.LetGo(Held::kWork);
  EXPECT_TRUE(to_->IsZero());
  EXPECT_EQ(fabric_.counts().refused, 1u);
  EXPECT_EQ(fabric_.counts().late, 1u);
}

TEST_F(RdmaFabricTest, ALateWriteDoesNotLandOverABrokenQueuePair) {
  fabric_.Hold(Held::kWork);
  ASSERT_TRUE(WritePage(0).ok());
  destination_pair_->Break();
  fabric_.LetGo(Held::kWork);
  EXPECT_TRUE(to_->IsZero());
  EXPECT_EQ(fabric_.counts().refused, 1u);
  EXPECT_FALSE(Await(*source_pair_, 1)[0].status.ok());
}

TEST_F(RdmaFabricTest, ALateWriteLandsWhereNobodyHasTakenCareOfIt) {
  fabric_.Hold(Held::kWork);
  ASSERT_TRUE(WritePage(0).ok());
  source_pair_->Break();
  fabric_.LetGo(Held::kWork);
  EXPECT_TRUE(HasCome(0));
}

TEST_F(RdmaFabricTest, ReordersWritesUpToTheSendBehindThem) {
  fabric_.Reorder(3);
  bool reordered = false;
  for (int i = 0; i < 32; i++) {
    std::memset(to_->data(), 0, kPage);
    ASSERT_TRUE(destination_pair_->PostReceive(9, message_->Local(0, 8)).ok());
    // The second one goes to the same place, which the first one overwrites when it is late.
    ASSERT_TRUE(source_pair_->PostWrite(0, from_->Local(0, kPage), to_->Remote(0)).ok());
    ASSERT_TRUE(source_pair_->PostWrite(1, from_->Local(kPage, kPage), to_->Remote(0)).ok());
    ASSERT_EQ(to_->data()[1], 0);
    ASSERT_TRUE(source_pair_->PostSend(2, from_->Local(0, 8)).ok());
    ASSERT_EQ(Taken(*destination_pair_), 1u);
    reordered = reordered || to_->data()[1] == from_->data()[1];
    const std::vector<Completion> done = Await(*source_pair_, 3);
    for (uint64_t id = 0; id < 3; id++) ASSERT_EQ(done[id].id, id);
  }
  EXPECT_TRUE(reordered);
  // Without one, who looks for completions gets them.
  ASSERT_TRUE(WritePage(0).ok());
  EXPECT_TRUE(Await(*source_pair_, 1)[0].status.ok());
}

TEST_F(RdmaFabricTest, FailsAsItIsTold) {
  using Call = RdmaFabric::Call;
  fabric_.FailAfter(Call::kRegister, End::kHere, 1);
  const TestMemory good(*destination_, 1, MemoryAccess::kLocal);
  EXPECT_EQ(destination_->Register(good.span(), MemoryAccess::kLocal).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(destination_->Register(good.span(), MemoryAccess::kLocal).ok());

  fabric_.FailAfter(Call::kWrite, End::kThere, 1);
  ASSERT_TRUE(WritePage(0).ok());
  ASSERT_TRUE(WritePage(1).ok());
  const std::vector<Completion> done = Await(*source_pair_, 2);
  EXPECT_TRUE(done[0].status.ok());
  EXPECT_FALSE(done[1].status.ok());
  EXPECT_TRUE(source_pair_->broken());

  fabric_.FailStepAfter(0);
  EXPECT_FALSE(fabric_.Open("", End::kHere, Soon(), cancel_).ok());
  EXPECT_TRUE(fabric_.Open("", End::kHere, Soon(), cancel_).ok());
}

TEST_F(RdmaFabricTest, CountsAndLimitsWhatIsRegistered) {
  EXPECT_EQ(fabric_.registrations(End::kHere), 2u);
  EXPECT_EQ(fabric_.registered_bytes(End::kHere), 9 * kPage);
  fabric_.LimitRegistered(End::kHere, 10 * kPage);
  const Mapping two = *Mapping::Create("memory", 2 * kPage, MAP_PRIVATE | MAP_ANONYMOUS);
  EXPECT_EQ(destination_->Register(two.span(), MemoryAccess::kLocal).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(source_->Register(two.span(), MemoryAccess::kLocal).ok());
  to_->Deregister();
  EXPECT_TRUE(destination_->Register(two.span(), MemoryAccess::kLocal).ok());
  EXPECT_EQ(fabric_.registrations(End::kHere), 1u);
}

TEST_F(RdmaFabricTest, HoldsRegistrations) {
  fabric_.Hold(Held::kRegistrations);
  const Mapping page = *Mapping::Create("memory", kPage, MAP_PRIVATE | MAP_ANONYMOUS);
  Thread registers =
      StartOrDie("registers", [&] { EXPECT_TRUE(source_->Register(page.span(), MemoryAccess::kLocal).ok()); });
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kRegistrations, 1));
  EXPECT_EQ(fabric_.registrations(End::kThere), 1u);
  fabric_.LetGo(Held::kRegistrations);
  registers.Join();
}

// RDMA.md: a hole that is punched under a registration loses what is written.
TEST_F(RdmaFabricTest, WhatIsWrittenWhereAPageHasGoneIsLost) {
  ASSERT_EQ(madvise(to_->data() + kPage, kPage, MADV_DONTNEED), 0);
  ASSERT_TRUE(source_pair_->PostWrite(0, from_->Local(0, 3 * kPage), to_->Remote(0)).ok());
  EXPECT_TRUE(Await(*source_pair_, 1)[0].status.ok());
  EXPECT_TRUE(HasCome(0) && HasCome(2));
  EXPECT_FALSE(HasCome(1));
  EXPECT_EQ(fabric_.counts().lost_bytes, kPage);
}

TEST_F(RdmaFabricTest, CutsOneConnection) {
  std::unique_ptr<QueuePair> source;
  std::unique_ptr<QueuePair> destination;
  Connect(source, destination);
  EXPECT_EQ(fabric_.greetings().size(), 2u);
  fabric_.Cut(1);
  EXPECT_TRUE(source->broken() && destination->broken());
  EXPECT_FALSE(source_pair_->broken() || destination_pair_->broken());

  fabric_.Hold(Held::kWork);
  ASSERT_TRUE(WritePage(0).ok());
  fabric_.TimeOut(0);
  EXPECT_EQ(Await(*source_pair_, 1)[0].status.message(), "transport retry counter exceeded");
  EXPECT_FALSE(destination_pair_->broken());
}

}  // namespace
}  // namespace ferrite::migration
