#include "vmm/control/balloon_waits.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

constexpr kj::Duration kPeriod = 20 * kj::MILLISECONDS;

}  // namespace

// One call's wait; it lives in the promise.
class BalloonWaits::Wait {
 public:
  Wait(kj::PromiseFulfiller<absl::Status>& fulfiller, std::list<Wait*>& all, Look look)
      : fulfiller_(fulfiller), all_(all), look_(kj::mv(look)) {
    all_.push_back(this);
  }
  ~Wait() { all_.remove(this); }
  KJ_DISALLOW_COPY(Wait);

  void LookAt(const BalloonFigures& figures) {
    if (!fulfiller_.isWaiting()) {
      return;
    }
    KJ_IF_MAYBE (result, look_(figures)) {
      fulfiller_.fulfill(std::move(*result));
    }
  }

 private:
  kj::PromiseFulfiller<absl::Status>& fulfiller_;
  std::list<Wait*>& all_;
  Look look_;
};

absl::Status BalloonWaits::MayWait() const {
  if (waits_.size() < ControlServer::kMaxAllBalloonWaits) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat(ControlServer::kMaxAllBalloonWaits,
                                                   " calls wait for this machine's balloon already; try again later"));
}

kj::Promise<absl::Status> BalloonWaits::Until(Look look) {
  KJ_IF_MAYBE (result, look(target_.balloon->Figures())) {
    return std::move(*result);
  }
  auto wait = kj::newAdaptedPromise<absl::Status, Wait>(waits_, kj::mv(look));
  if (!ticking_) {
    ticking_ = true;
    tick_ = Tick().eagerlyEvaluate(nullptr);
  }
  return wait;
}

kj::Promise<void> BalloonWaits::Tick() {
  return timer_.afterDelay(kPeriod).then([this]() -> kj::Promise<void> {
    LookAll();
    if (waits_.empty()) {
      ticking_ = false;
      return kj::READY_NOW;
    }
    return Tick();
  });
}

void BalloonWaits::LookAll() {
  if (waits_.empty()) {
    return;
  }
  const BalloonFigures figures = target_.balloon->Figures();
  for (Wait* wait : waits_) {
    wait->LookAt(figures);
  }
}

}  // namespace ferrite
