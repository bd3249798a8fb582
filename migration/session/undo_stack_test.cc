#include "migration/session/undo_stack.h"

#include <new>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace ferrite::migration {
namespace {

class UndoStackTest : public ::testing::Test {
 protected:
  UndoStack::Undo Step(std::string name, absl::Status result = absl::OkStatus()) {
    return [this, name = std::move(name), result](const absl::Status& so_far) {
      ran_.push_back(name + (so_far.ok() ? "" : " after " + std::string(so_far.message())));
      return result;
    };
  }

  UndoStack undo_;
  std::vector<std::string> ran_;
};

TEST_F(UndoStackTest, UndoesInReverse) {
  undo_.Push(Step("balloon"));
  undo_.Push(Step("pause"));
  undo_.Push(Step("disks"));
  EXPECT_TRUE(undo_.Run().ok());
  EXPECT_EQ(ran_, std::vector<std::string>({"disks", "pause", "balloon"}));
}

TEST_F(UndoStackTest, UndoesOnce) {
  undo_.Push(Step("balloon"));
  EXPECT_TRUE(undo_.Run().ok());
  EXPECT_TRUE(undo_.Run().ok());
  EXPECT_EQ(ran_.size(), 1);
}

TEST_F(UndoStackTest, OneThatFailsKeepsNoOtherFromRunningAndTellsThem) {
  undo_.Push(Step("balloon"));
  undo_.Push(Step("pause"));
  undo_.Push(Step("disks", absl::UnavailableError("taken")));
  EXPECT_EQ(undo_.Run(), absl::UnavailableError("taken"));
  EXPECT_EQ(ran_, std::vector<std::string>({"disks", "pause after taken", "balloon after taken"}));
}

TEST_F(UndoStackTest, WhatFoundNoMemoryIsDoneAgain) {
  bool fails = true;
  undo_.Push(Step("balloon"));
  undo_.Push([&](const absl::Status& so_far) {
    EXPECT_EQ(so_far, absl::UnavailableError("taken"));
    if (fails) {
      throw std::bad_alloc();
    }
    return absl::OkStatus();
  });
  undo_.Push(Step("disks", absl::UnavailableError("taken")));
  EXPECT_THROW((void)undo_.Run(), std::bad_alloc);
  EXPECT_EQ(ran_, std::vector<std::string>({"disks"}));
  fails = false;
  EXPECT_EQ(undo_.Run(), absl::UnavailableError("taken")) << "what failed before is not forgotten";
  EXPECT_EQ(ran_.back(), "balloon after taken");
}

TEST_F(UndoStackTest, WhatIsDroppedIsNotUndone) {
  undo_.Push(Step("pause"));
  undo_.Drop();
  EXPECT_TRUE(undo_.Run().ok());
  EXPECT_TRUE(ran_.empty());
}

}  // namespace
}  // namespace ferrite::migration
