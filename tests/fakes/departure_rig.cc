#include "tests/fakes/departure_rig.h"

#include <gtest/gtest.h>

#include <utility>

#include "base/monotonic.h"
#include "base/status.h"
#include "base/thread.h"
#include "tests/fakes/scripted_destination.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {

DepartureRig::DepartureRig(const FakeGuestWork& work) {
  auto memory = GuestMemory::Create(kScriptedBytes, MemoryBacking::kMemfd);
  EXPECT_TRUE(memory.ok()) << memory.status();
  memory_ = *std::move(memory);
  guest_ = std::make_unique<FakeGuest>(*memory_, work);
  guest_->Run();
  port_ = std::make_unique<FakeSourcePort>(*memory_, *guest_);
}

absl::Status DepartureRig::MoveTo(const MeetingPlace& there, const MoveOptions& options) {
  FERRITE_ASSIGN_OR_RETURN(source_, Source::Create(AnyHost(), *port_, options, nullptr));
  const MonotonicTime start = MonotonicTime::Now();
  absl::Status status = source_->Run(there.address());
  took_ = MonotonicTime::Now() - start;
  return status;
}

absl::Status DepartureRig::MoveTo(const DestinationScript& first, const DestinationScript& again,
                                  const MoveOptions& options) {
  MeetingPlace place;
  Thread peer = StartOrDie("peer", [&] {
    if (const std::unique_ptr<Stream> control = place.Accept(); control != nullptr) {
      EXPECT_TRUE(ReadPreamble(*control).has_value());
      first(place, *control);
    }
    while (again != nullptr) {
      const std::unique_ptr<Stream> control = place.Accept();
      if (control == nullptr) {
        return;
      }
      if (ReadPreamble(*control).has_value()) {
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
