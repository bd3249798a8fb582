#include "tests/fakes/arrival_rig.h"

#include <gtest/gtest.h>

#include <utility>

#include "tests/fakes/acceptor_of.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {

ArrivalRig::ArrivalRig(const Destination::Options& options, const Clock& clock, MemoryBacking backing)
    : host_(clock),
      there_(backing),
      acceptor_(AcceptorOf(place_.TakeListener(), {.patience = options.patience}, host_.get())) {
  auto session = Destination::Create(host_.get(), there_, options);
  EXPECT_TRUE(session.ok()) << session.status();
  session_ = *std::move(session);
}

ArrivalRig::~ArrivalRig() {
  if (receiver_.joinable()) {
    session_->Cancel().IgnoreError();
    session_->Leave();
    receiver_.Join();
  }
}

void ArrivalRig::Start() {
  receiver_ = StartOrDie("receiver", [this] { result_ = session_->Run(*acceptor_); });
}

absl::Status ArrivalRig::Join() {
  receiver_.Join();
  return result_;
}

absl::Status ArrivalRig::Cancel() {
  EXPECT_TRUE(session_->Cancel().ok());
  return Join();
}

}  // namespace ferrite::migration
