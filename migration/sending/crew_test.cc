#include "migration/sending/crew.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/thread_class.h"
#include "base/thread_maker.h"

namespace ferrite::migration {
namespace {

TEST(CrewTest, AllDoEachJobOnceAndTheFirstErrorIsTold) {
  ThreadMaker maker;
  auto crew = Crew::Create(maker, "test-crew", ThreadClass::kInherited, 4);
  ASSERT_TRUE(crew.ok()) << crew.status();
  EXPECT_TRUE((*crew)->Await().ok()) << "no job is done at once";
  for (int round = 1; round <= 100; ++round) {
    std::atomic<uint32_t> seen = 0;
    (*crew)->Begin([&](size_t index) {
      EXPECT_EQ(seen.fetch_or(1u << index) & (1u << index), 0u) << "once";
      return index >= 2 && round % 2 == 0 ? absl::AbortedError(absl::StrCat(index)) : absl::OkStatus();
    });
    const absl::Status status = (*crew)->Await();
    EXPECT_EQ(seen, 0xfu);
    EXPECT_EQ(status, round % 2 == 0 ? absl::AbortedError("2") : absl::OkStatus()) << "and is forgotten";
  }
}

TEST(CrewTest, EndWaitsForTheJobThatIsOn) {
  ThreadMaker maker;
  std::atomic<int> done = 0;
  {
    auto crew = Crew::Create(maker, "test-crew", ThreadClass::kInherited, 2);
    ASSERT_TRUE(crew.ok());
    (*crew)->Begin([&](size_t) {
      ++done;
      return absl::OkStatus();
    });
  }
  EXPECT_EQ(done, 2);
}

TEST(CrewTest, LackOfMemoryIsAnError) {
  ThreadMaker maker;
  auto crew = Crew::Create(maker, "test-crew", ThreadClass::kInherited, 1);
  ASSERT_TRUE(crew.ok());
  (*crew)->Begin([](size_t) -> absl::Status { throw std::bad_alloc(); });
  EXPECT_TRUE(absl::IsResourceExhausted((*crew)->Await()));
}

// Refuses the third.
class PickyMaker final : public ThreadMaker {
 public:
  absl::StatusOr<Thread> Start(std::string name, ThreadClass its_class, std::function<void()> body) override {
    names.insert(name);
    return names.size() == 3 ? absl::ResourceExhaustedError("no third one")
                             : ThreadMaker::Start(std::move(name), its_class, std::move(body));
  }
  std::set<std::string> names;
};

TEST(CrewTest, ThreadThatCannotBeMadeEndsTheOthers) {
  PickyMaker maker;
  EXPECT_EQ(Crew::Create(maker, "test-crew", ThreadClass::kInherited, 4).status(),
            absl::ResourceExhaustedError("no third one"));
  EXPECT_EQ(maker.names, (std::set<std::string>{"test-crew-0", "test-crew-1", "test-crew-2"}));
}

}  // namespace
}  // namespace ferrite::migration
