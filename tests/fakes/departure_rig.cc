#include "tests/fakes/departure_rig.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <utility>

#include "base/monotonic.h"
#include "base/status.h"
#include "base/thread.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "tests/fakes/scripted_destination.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {

DepartureRig::DepartureRig(const FakeGuestWork& work, FakeClock* clock)
    : clock_(clock), host_(clock != nullptr ? *clock : RealClock()) {
  auto memory = GuestMemory::Create(kScriptedBytes, MemoryBacking::kMemfd);
  EXPECT_TRUE(memory.ok()) << memory.status();
  memory_ = *std::move(memory);
  guest_ = std::make_unique<FakeGuest>(*memory_, work);
  guest_->Run();
  port_ = std::make_unique<FakeSourcePort>(*memory_, *guest_);
}

absl::Status DepartureRig::MoveTo(const MeetingPlace& there, const MoveOptions& options) {
  FERRITE_ASSIGN_OR_RETURN(source_, Source::Create(host_.get(), *port_, options, nullptr));
  const MonotonicTime start = host_.get().clock.Now();
  running_ = source_.get();
  absl::Status status = source_->Run(OpenAt(there.address(), host_.get().clock));
  took_ = host_.get().clock.Now() - start;
  return status;
}

void DepartureRig::PassTime(const MeetingPlace& place, bool comes_again) {
  if (clock_ == nullptr) {
    return;
  }
  const auto over = [&] { return comes_again ? place.HasCaller() : place.closed(); };
  // Not while it still has to find that its connection is gone: it would be late.
  const Source& source = *running_;
  while (comes_again && !over() && source.state() != MoveState::kPostcopyPaused) {
    sched_yield();
  }
  EXPECT_TRUE(clock_->PassUntil(over));
}

absl::Status DepartureRig::MoveTo(const DestinationScript& first, const DestinationScript& again,
                                  const MoveOptions& options) {
  MeetingPlace place(clock_);
  Thread peer = StartOrDie("peer", [&] {
    if (const std::unique_ptr<Stream> control = place.Accept(); control != nullptr) {
      EXPECT_TRUE(ReadPreamble(place, *control).has_value());
      first(place, *control);
    }
    while (true) {
      PassTime(place, again != nullptr);
      const std::unique_ptr<Stream> control = again != nullptr ? place.Accept() : nullptr;
      if (control == nullptr) {
        return;
      }
      if (ReadPreamble(place, *control).has_value()) {
        again(place, *control);
      }
    }
  });
  absl::Status status = MoveTo(place, options);
  place.Close();
  peer.Join();
  return status;
}

}  // namespace ferrite::migration
