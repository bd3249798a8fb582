#include "migration/placing/page_states.h"

#include "base/status.h"

namespace ferrite::migration {

PageStates::PageStates(uint64_t units)
    : units_(units), states_(std::make_unique<std::atomic<PageState>[]>(units)), missing_(units) {}

bool PageStates::Change(uint64_t unit, PageState from, PageState to) {
  return states_[unit].compare_exchange_strong(from, to, std::memory_order_acq_rel);
}

bool PageStates::Request(uint64_t unit) { return Change(unit, PageState::kAbsent, PageState::kRequested); }

bool PageStates::Claim(uint64_t unit, bool* wanted) {
  // A fault may turn absent into requested between the two, so requested is tried last.
  if (Change(unit, PageState::kAbsent, PageState::kReceiving)) {
    return true;
  }
  const bool requested = Change(unit, PageState::kRequested, PageState::kReceiving);
  if (requested && wanted != nullptr) {
    *wanted = true;
  }
  return requested;
}

bool PageStates::Await(uint64_t unit) {
  return Change(unit, PageState::kReceiving, PageState::kAwaited) || Get(unit) == PageState::kAwaited;
}

void PageStates::Leave(uint64_t unit, PageState to) {
  // A fault may turn receiving into awaited between the two, so awaited is tried last.
  FERRITE_CHECK(Change(unit, PageState::kReceiving, to) || Change(unit, PageState::kAwaited, to));
}

void PageStates::Finish(uint64_t unit) {
  Leave(unit, PageState::kPresent);
  missing_.fetch_sub(1, std::memory_order_acq_rel);
}

void PageStates::Abandon(uint64_t unit) { Leave(unit, PageState::kRequested); }

void PageStates::FinishPoisoned(uint64_t unit) {
  Leave(unit, PageState::kPoisoned);
  missing_.fetch_sub(1, std::memory_order_acq_rel);
}

void PageStates::Lose(uint64_t unit) {
  if (Change(unit, PageState::kAbsent, PageState::kPoisoned)) {
    missing_.fetch_sub(1, std::memory_order_acq_rel);
  } else {
    (void)Change(unit, PageState::kPresent, PageState::kPoisoned);
  }
}

bool PageStates::Discard(uint64_t unit) {
  const bool changed =
      Change(unit, PageState::kPresent, PageState::kAbsent) || Change(unit, PageState::kPoisoned, PageState::kAbsent);
  if (changed) {
    missing_.fetch_add(1, std::memory_order_acq_rel);
  }
  return changed;
}

void PageStates::SetPresent(uint64_t unit) {
  if (Change(unit, PageState::kAbsent, PageState::kPresent)) {
    missing_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace ferrite::migration
