// Calls about mirrors that wait: what else is asked for goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "tests/fakes/control_place.h"
#include "tests/fakes/fake_machine.h"
#include "tests/fakes/scripted_mover.h"
#include "tests/fakes/test_thread.h"
#include "vmm/control/client.h"
#include "vmm/control/mirror_port.h"
#include "vmm/control/server.h"

namespace ferrite {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(60);

// Does nothing until a test says so.
class ScriptedMirrors final : public MirrorPort {
 public:
  void AllowMove(const absl::Status& allows) {
    const absl::MutexLock lock(&mutex_);
    allows_move_ = allows;
  }
  // Waits for `count` to be asked for, in all.
  void AwaitAsked(size_t count) {
    const absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return asked_.size() >= count; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience));
  }
  void Tell(size_t index, const absl::Status& result) {
    Done done;
    {
      const absl::MutexLock lock(&mutex_);
      done = std::move(asked_.at(index).second);
    }
    done(result);
  }
  std::vector<std::string> asked() const {
    const absl::MutexLock lock(&mutex_);
    std::vector<std::string> words;
    for (const auto& [what, unused] : asked_) {
      words.push_back(what);
    }
    return words;
  }

  void Start(const MirrorRequest& request, Started started) override {
    Note(absl::StrCat(request.disk, " to ", request.target),
         [started](const absl::Status& status) { started(status.ok() ? absl::StatusOr<uint64_t>(7) : status); });
  }
  std::vector<MirrorStatus> List() const override { return {}; }
  absl::StatusOr<MirrorStatus> Status(absl::string_view /*disk*/) const override { return MirrorStatus(); }
  void Complete(absl::string_view disk, Done done) override { Note(absl::StrCat("complete ", disk), std::move(done)); }
  void Cancel(absl::string_view disk, bool keep_copy, Done done) override {
    Note(absl::StrCat(keep_copy ? "keep " : "cancel ", disk), std::move(done));
  }
  void Pause(absl::string_view disk, Done done) override { Note(absl::StrCat("pause ", disk), std::move(done)); }
  void Resume(absl::string_view disk, Done done) override { Note(absl::StrCat("resume ", disk), std::move(done)); }
  void SetMaxBandwidth(absl::string_view disk, uint64_t bytes_per_second, Done done) override {
    Note(absl::StrCat(disk, " at ", bytes_per_second), std::move(done));
  }
  absl::Status AllowsMove() const override {
    const absl::MutexLock lock(&mutex_);
    return allows_move_;
  }
  void BeginEnd() override {}

 private:
  void Note(std::string what, Done done) {
    const absl::MutexLock lock(&mutex_);
    asked_.emplace_back(std::move(what), std::move(done));
  }

  mutable absl::Mutex mutex_;
  std::vector<std::pair<std::string, Done>> asked_ ABSL_GUARDED_BY(mutex_);
  absl::Status allows_move_ ABSL_GUARDED_BY(mutex_);
};

class MirrorCallsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = ControlServer::Create(place_.Listen(),
                                        {.name = "vm", .machine = &machine_, .mover = &mover_, .mirrors = &mirrors_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  static MachineConfig Config() {
    MachineConfig config;
    config.name = "vm";
    config.memory_bytes = 64 << 20;
    return config;
  }

  ControlPlace place_;
  FakeMachine machine_{Config()};
  ScriptedMirrors mirrors_;
  ScriptedMover mover_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(MirrorCallsTest, OneThatWaitsHoldsNothingUp) {
  absl::Status completed;
  Thread waiting = StartOrDie("waiting", [&] { completed = place_.Connect()->CompleteMirror("root", nullptr); });
  mirrors_.AwaitAsked(1);
  const auto other = place_.Connect();
  EXPECT_EQ(other->Pause().ToString(), "OK");
  EXPECT_EQ(other->Resume().ToString(), "OK");
  Thread cancelling =
      StartOrDie("cancelling", [&] { EXPECT_EQ(place_.Connect()->CancelMirror("root").ToString(), "OK"); });
  mirrors_.AwaitAsked(2);
  mirrors_.Tell(1, absl::OkStatus());
  cancelling.Join();
  mirrors_.Tell(0, absl::CancelledError("it was cancelled"));
  waiting.Join();
  EXPECT_THAT(completed.ToString(), HasSubstr("it was cancelled"));
  EXPECT_THAT(mirrors_.asked(), ElementsAre("complete root", "cancel root"));
}

TEST_F(MirrorCallsTest, OneThatOpensItsTargetHoldsNothingUp) {
  for (const absl::Status& result : {absl::OkStatus(), absl::UnavailableError("nbd://nowhere: no answer")}) {
    const size_t before = mirrors_.asked().size();
    Thread waiting = StartOrDie("waiting", [&] {
      const auto number = place_.Connect()->StartMirror({.disk = "root", .target = "nbd://nowhere"});
      EXPECT_EQ(number.status(), result);
      EXPECT_EQ(number.value_or(7), 7u);
    });
    mirrors_.AwaitAsked(before + 1);
    const auto other = place_.Connect();
    EXPECT_EQ(other->Pause().ToString(), "OK");
    EXPECT_EQ(other->Resume().ToString(), "OK");
    mirrors_.Tell(before, result);
    waiting.Join();
  }
  place_.Connect()->Stop(/*force=*/false).IgnoreError();
  EXPECT_THAT(place_.Connect()->StartMirror({.disk = "root", .target = "t"}).status().ToString(),
              HasSubstr("cannot mirror a disk: the machine is stopped"));
}

TEST_F(MirrorCallsTest, MachineThatMovesIsNotMirrored) {
  const auto client = place_.Connect();
  const absl::Status moves = absl::FailedPreconditionError("cannot mirror a disk: the machine is moving to tcp:b:1");
  mover_.Allow(moves);
  EXPECT_EQ(client->StartMirror({.disk = "root", .target = "t"}).status(), moves);
  EXPECT_THAT(mirrors_.asked(), ElementsAre());
  mover_.Allow(absl::OkStatus());
  Thread waiting = StartOrDie("waiting", [&] {
    EXPECT_EQ(place_.Connect()->StartMirror({.disk = "root", .target = "t"}).status(), absl::OkStatus());
  });
  mirrors_.AwaitAsked(1);
  mirrors_.Tell(0, absl::OkStatus());
  waiting.Join();
}

TEST_F(MirrorCallsTest, MachineThatIsMirroredDoesNotMove) {
  const auto client = place_.Connect();
  const absl::Status mirrored = absl::FailedPreconditionError("disk root is mirrored to /t");
  mirrors_.AllowMove(mirrored);
  EXPECT_EQ(client->StartMove("tcp:b:1", {}, {}).status(), mirrored);
  EXPECT_THAT(mover_.moves(), ElementsAre());
  mirrors_.AllowMove(absl::OkStatus());
  EXPECT_EQ(client->StartMove("tcp:b:1", {}, {}).status(), absl::OkStatus());
  EXPECT_THAT(mover_.moves(), ElementsAre("tcp:b:1"));
}

TEST_F(MirrorCallsTest, TooManyAreRefused) {
  std::vector<Thread> waiting;
  for (size_t i = 0; i < ControlServer::kMaxAllMirrorWaits; ++i) {
    waiting.push_back(StartOrDie(
        "waiting", [&, i] { EXPECT_EQ(place_.Connect()->SetMirror(absl::StrCat("d", i), i).ToString(), "OK"); }));
  }
  mirrors_.AwaitAsked(waiting.size());
  const auto client = place_.Connect();
  EXPECT_TRUE(absl::IsResourceExhausted(client->CompleteMirror("root", nullptr)))
      << client->CompleteMirror("root", nullptr);
  for (size_t i = 0; i < waiting.size(); ++i) {
    mirrors_.Tell(i, absl::OkStatus());
  }
  for (Thread& thread : waiting) {
    thread.Join();
  }
  // Not those that are over.
  Thread more = StartOrDie("more", [&] { EXPECT_EQ(place_.Connect()->PauseMirror("root").ToString(), "OK"); });
  mirrors_.AwaitAsked(waiting.size() + 1);
  mirrors_.Tell(waiting.size(), absl::OkStatus());
  more.Join();
}

// An end takes as long as it takes: who waits for it is told of the mirror meanwhile, and what else is asked for is not
// waited for so long.
TEST_F(MirrorCallsTest, AnEndIsWaitedForWhileTheMirrorGoesOn) {
  constexpr absl::Duration kTimeout = absl::Milliseconds(600);
  server_->SetTarget(
      {.name = "vm", .machine = &machine_, .mirrors = &mirrors_, .mirror_patience = absl::Milliseconds(1)});
  EXPECT_THAT(place_.Connect()->PauseMirror("root").ToString(), HasSubstr("that is not done yet; it goes on"));
  EXPECT_THAT(place_.Connect()->CancelMirror("root").ToString(), HasSubstr("that is not done yet; it goes on"));
  for (const bool keep_copy : {false, true}) {
    const size_t before = mirrors_.asked().size();
    std::atomic<uint64_t> told = 0;
    absl::Status ended;
    Thread waiting = StartOrDie("waiting", [&] {
      const auto client = place_.Connect(kTimeout);
      const auto tell = [&](const MirrorStatus& mirror) {
        EXPECT_EQ(mirror.disk, "root");
        told = mirror.figures.done_bytes;
      };
      ended = keep_copy ? client->KeepMirrorCopy("root", tell) : client->CompleteMirror("root", tell);
    });
    mirrors_.AwaitAsked(before + 1);
    EXPECT_EQ(mirrors_.asked().back(), keep_copy ? "keep root" : "complete root");
    const MonotonicTime began = MonotonicTime::Now();
    for (uint64_t count = 1; MonotonicTime::Now() - began < 2 * kTimeout; ++count) {
      server_->Publish(MirrorStatus{.number = 1, .disk = "data"});
      MirrorStatus mirror{.number = 2, .disk = "root"};
      mirror.figures.done_bytes = count;
      server_->Publish(mirror);
      while (told < count && MonotonicTime::Now() - began < kPatience) {
        std::this_thread::yield();
      }
      ASSERT_EQ(told, count);
    }
    mirrors_.Tell(before, keep_copy ? absl::OkStatus() : absl::FailedPreconditionError("it stays"));
    waiting.Join();
    EXPECT_EQ(ended.ToString(), keep_copy ? "OK" : "FAILED_PRECONDITION: it stays");
  }
}

TEST_F(MirrorCallsTest, AnEndOfWhichNothingIsHeardIsGivenUp) {
  EXPECT_THAT(place_.Connect(absl::Milliseconds(300))->CompleteMirror("root", nullptr).ToString(),
              HasSubstr("DEADLINE_EXCEEDED: the machine did not answer within 300ms"));
}

TEST_F(MirrorCallsTest, EndsLeaveRoomForWhatIsAskedMeanwhile) {
  std::vector<Thread> waiting;
  for (size_t i = 0; i < ControlServer::kMaxMirrorEnds; ++i) {
    waiting.push_back(
        StartOrDie("waiting", [&] { EXPECT_EQ(place_.Connect()->CompleteMirror("root", nullptr).ToString(), "OK"); }));
  }
  mirrors_.AwaitAsked(waiting.size());
  EXPECT_TRUE(absl::IsResourceExhausted(place_.Connect()->KeepMirrorCopy("root", nullptr)));
  Thread pausing = StartOrDie("pausing", [&] { EXPECT_EQ(place_.Connect()->PauseMirror("root").ToString(), "OK"); });
  mirrors_.AwaitAsked(waiting.size() + 1);
  for (size_t i = 0; i <= waiting.size(); ++i) {
    mirrors_.Tell(i, absl::OkStatus());
  }
  pausing.Join();
  for (Thread& thread : waiting) {
    thread.Join();
  }
  // Those are over.
  Thread more =
      StartOrDie("more", [&] { EXPECT_EQ(place_.Connect()->KeepMirrorCopy("root", nullptr).ToString(), "OK"); });
  mirrors_.AwaitAsked(waiting.size() + 2);
  mirrors_.Tell(waiting.size() + 1, absl::OkStatus());
  more.Join();
}

// Who asked is gone when the answer comes, and then the server.
TEST_F(MirrorCallsTest, NobodyNeedsToHearTheAnswer) {
  Thread waiting = StartOrDie(
      "waiting", [&] { EXPECT_FALSE(place_.Connect(absl::Milliseconds(300))->CompleteMirror("root", nullptr).ok()); });
  mirrors_.AwaitAsked(1);
  waiting.Join();
  mirrors_.Tell(0, absl::OkStatus());
  Thread other = StartOrDie("other", [&] { EXPECT_FALSE(place_.Connect()->PauseMirror("root").ok()); });
  mirrors_.AwaitAsked(2);
  server_.reset();
  other.Join();
  mirrors_.Tell(1, absl::OkStatus());
}

}  // namespace
}  // namespace ferrite
