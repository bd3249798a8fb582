// The console on a host that has no memory left at each of the places where its thread takes some.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <span>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "tests/fakes/scarcity.h"
#include "vmm/console/console_hub.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);

std::span<const uint8_t> Bytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// What comes until it ends with `end`.
std::string ReadUntil(const Fd& fd, absl::string_view end) {
  std::string text;
  char buffer[4096];
  pollfd polled = {fd.get(), POLLIN, 0};
  while (!absl::EndsWith(text, end) && poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) == 1) {
    const ssize_t n = read(fd.get(), buffer, sizeof(buffer));
    if (n <= 0) {
      break;
    }
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

class ConsoleScarcityTest : public testing::TestWithParam<Refusals> {};

TEST_P(ConsoleScarcityTest, OutputAndInputPassWhateverCouldNotBeHad) {
  const Plenty plenty;  // this thread is the guest's processor, and the clients'
  const std::string more(2 * ConsoleHub::kBufferBytes, 'x');
  uint64_t most = 0;
  for (uint64_t nth = 1, refused = 1; refused > 0; ++nth) {
    SCOPED_TRACE(absl::StrCat(nth, ". refused"));
    ASSERT_LT(nth, 200u) << "memory is taken without end";
    auto hub = ConsoleHub::Create({});
    ASSERT_TRUE(hub.ok()) << hub.status();
    absl::Notification typed;
    (*hub)->SetReceiver([&](std::span<const uint8_t> bytes) {
      typed.Notify();
      return bytes.size();
    });
    Scarcity scarcity(Scarce::kMemory, nth, GetParam());
    auto reader = (*hub)->Attach();
    auto slow = (*hub)->Attach();
    ASSERT_TRUE(reader.ok() && slow.ok());
    (*hub)->Transmit(Bytes("boot"));
    ASSERT_EQ(send(reader->get(), "x", 1, MSG_NOSIGNAL), 1);
    if (GetParam() == Refusals::kOne) {
      EXPECT_EQ(ReadUntil(*reader, "boot"), "boot");
      (*hub)->Transmit(Bytes(more));
      (*hub)->Transmit(Bytes("the end"));
      EXPECT_TRUE(absl::StrContains(ReadUntil(*slow, "the end"), " bytes of console output were dropped here"));
    }
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (scarcity.refused() == 0 && !typed.HasBeenNotified() && MonotonicTime::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    scarcity.End();
    refused = scarcity.refused();
    most = refused > 0 ? nth : most;
    (*hub)->Transmit(Bytes("login: "));
    EXPECT_TRUE(absl::EndsWith(ReadUntil(*reader, "login: "), "login: "));
    EXPECT_TRUE(typed.WaitForNotificationWithTimeout(kPatience));
    (*hub)->SetReceiver(nullptr);
  }
  EXPECT_GE(most, 1u) << "nothing was refused: what is this test about?";
}

INSTANTIATE_TEST_SUITE_P(Shortages, ConsoleScarcityTest, testing::Values(Refusals::kOne, Refusals::kAllFromThere),
                         [](const auto& info) { return info.param == Refusals::kOne ? "One" : "All"; });

}  // namespace
}  // namespace ferrite
