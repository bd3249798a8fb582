#include "tests/fakes/round_simulator.h"

#include <algorithm>
#include <optional>

#include "absl/time/time.h"
#include "memory/guest_address.h"
#include "migration/sending/pending_pages.h"

namespace ferrite::migration {
namespace {

constexpr double kScale = SimulatedGuest::kScale;
// How fast a sender finds that pages are zero.
constexpr double kZeroBytesPerSecond = 8e9 / kScale;
constexpr uint64_t kClaim = 512 / SimulatedGuest::kScale;
constexpr uint64_t kPagesPerBlock = 512 / SimulatedGuest::kScale;
// As the switchover to post-copy tells them: while the guest runs, and when it stands still.
constexpr int kDiscards = 4;
// A move that takes more has no end.
constexpr uint32_t kMostRounds = 60;

double Bytes(uint64_t pages) { return static_cast<double>(pages * kPageBytes); }

class Player {
 public:
  Player(SimulatedGuest& guest, const SimulatedLink& link, const ConvergenceLimits& limits)
      : guest_(guest),
        link_(link),
        limits_(limits),
        shape_{.pages = guest.pages(), .pages_per_block = kPagesPerBlock},
        pages_({&shape_, 1}) {
    pages_.pending(0).SetRange(0, guest.pages());
  }

  SimulatedMove Play() {
    SimulatedMove move;
    std::optional<RoundFigures> last;
    Decision decision = FirstRound(limits_);
    while (move.end == SimulatedMove::End::kNone && move.rounds < kMostRounds) {
      const RoundFigures* const before = last.has_value() ? &*last : nullptr;
      RoundFigures round = OneRound(decision, before);
      ++move.rounds;
      move.longest_again = std::max(move.longest_again, Bytes(pages_.TakeResent(0)) / Bytes(guest_.pages()));
      decision = DecideNext(round, before, limits_);
      round.futile = decision.futile;
      last = round;
      if (decision.step == NextStep::kSwitchover) {
        move.end = SimulatedMove::End::kPrecopy;
        move.downtime_ms = SendRest() * 1e3 + absl::ToDoubleMilliseconds(limits_.fixed_downtime);
      } else if (decision.step == NextStep::kPostcopy) {
        move.end = SimulatedMove::End::kPostcopy;
        for (int i = 0; i < kDiscards; ++i) {
          Pass(link_.latency, {}, 1);
          guest_.dirty().TakeInto(pages_.pending(0));
          (void)pages_.TakeStale();
        }
        SendRest();
      }
    }
    move.throttle = decision.throttle_percent;
    move.sent = wire_ / std::max(Bytes(guest_.pages() - guest_.zero_pages()), 1.0);
    return move;
  }

 private:
  // How long it takes.
  double Send(const PageRange& run) {
    const uint64_t zero = run.first < guest_.zero_pages() ? std::min(run.count, guest_.zero_pages() - run.first) : 0;
    const double data = Bytes(run.count - zero);
    wire_ += data;
    return data / (link_.bytes_per_second / kScale) + Bytes(zero) / kZeroBytesPerSecond;
  }

  void Pass(double seconds, const PageRange& sent, double share) {
    guest_.Work({.now = now_, .seconds = seconds * share, .share = share, .sent = sent});
    now_ += seconds;
  }

  RoundFigures OneRound(const Decision& plan, const RoundFigures* before) {
    RoundFigures round{.pages = plan.pages, .throttle_percent = plan.throttle_percent};
    const double start = now_;
    const double wire_before = wire_;
    const double share = (100 - plan.throttle_percent) / 100.0;
    pages_.Rewind(plan.pages);
    while (round.sent_bytes < plan.most_bytes) {
      const std::optional<PageRange> run = pages_.ClaimNext(kClaim);
      if (!run.has_value()) {
        break;
      }
      Pass(Send(*run), *run, share);
      round.sent_bytes += run->count * kPageBytes;
    }
    Pass(link_.latency, {}, share);
    round.wire_bytes = static_cast<uint64_t>(wire_ - wire_before);
    round.all_sent_bytes = round.sent_bytes + (before != nullptr ? before->all_sent_bytes : 0);
    round.took = absl::Seconds(now_ - start);
    round.dirtied_bytes = guest_.dirty().Count() * kPageBytes;
    round.again_bytes = pages_.Heat(0, guest_.dirty()) * kPageBytes;
    guest_.dirty().TakeInto(pages_.pending(0));
    round.remaining_bytes = pages_.CountPending() * kPageBytes;
    const uint64_t part = FirstRound(limits_).most_bytes / kPageBytes;
    round.unsent_bytes = pages_.Count(RoundPages::kUnsent, part) * kPageBytes;
    round.calm_bytes = pages_.Count(RoundPages::kCalm, part) * kPageBytes;
    return round;
  }

  double SendRest() {
    double seconds = 0;
    pages_.Rewind();
    while (const std::optional<PageRange> run = pages_.ClaimNext(kClaim)) {
      seconds += Send(*run);
    }
    return seconds;
  }

  SimulatedGuest& guest_;
  const SimulatedLink link_;
  const ConvergenceLimits limits_;
  const PendingPages::Shape shape_;
  PendingPages pages_;
  double now_ = 0;
  double wire_ = 0;
};

}  // namespace

template <typename NextPage>
void SimulatedGuest::Writes(double rate, double seconds, uint64_t pages, NextPage next) {
  time_ += seconds;
  // More writes than that would change nothing.
  for (uint64_t left = 5 * pages; time_ > 0; --left) {
    if (left == 0) {
      time_ = 0;
      break;
    }
    const uint64_t page = next();
    time_ -= kScale * (1 / rate + (dirty_.Test(page) ? 0 : first_write_));
    dirty_.Set(page);
  }
}

void SimulatedGuest::Random(uint64_t first, uint64_t count, double rate, double seconds) {
  Writes(rate, seconds, count, [&] {
    // xorshift64.
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return first + random_ % count;
  });
}

void SimulatedGuest::InOrder(uint64_t first, uint64_t count, double rate, double seconds) {
  Writes(rate, seconds, count, [&] { return first + place_++ % count; });
}

std::ostream& operator<<(std::ostream& out, const SimulatedMove& move) {
  using End = SimulatedMove::End;
  return out << (move.end == End::kPrecopy    ? "pre-copy"
                 : move.end == End::kPostcopy ? "post-copy"
                                              : "no end")
             << " after " << move.rounds << " rounds, sent " << move.sent << " of memory, downtime " << move.downtime_ms
             << " ms, throttle " << move.throttle;
}

SimulatedMove PlayMove(SimulatedGuest& guest, const SimulatedLink& link, ConvergenceLimits limits) {
  limits.memory_bytes = guest.pages() * kPageBytes;
  return Player(guest, link, limits).Play();
}

}  // namespace ferrite::migration
