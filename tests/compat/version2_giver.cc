#include "tests/compat/version2_giver.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "tests/compat/version2_secret.h"

namespace ferrite::version2 {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr uint16_t kUrgentChannels = 2;
constexpr uint64_t kEpoch = 1;
// What the rest waits for: faults of the guest come first.
constexpr uint64_t kRequests = 4;
// Of 4 KiB: what a page connection sends at a time, before the next one has its turn.
constexpr uint64_t kTurn = 256;
// In a second round one of so many pages goes again; of a guest that goes both ways one of so many turns is stale.
constexpr uint64_t kAgain = 16;
constexpr uint64_t kStale = 4;

bool IsZero(std::span<const uint8_t> page) {
  return page[0] == 0 && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

class Giver {
 public:
  Giver(const Guest& guest, const std::string& address, const GiveOptions& options)
      : guest_(guest), address_(address), options_(options) {
    for (const GuestRegion& region : guest.regions) {
      // All of it is to go.
      pending_.emplace_back(region.pages.size(), true);
    }
  }
  ~Giver() {
    for (const auto* lines : {&page_, &urgent_}) {
      for (const std::unique_ptr<Line>& line : *lines) {
        line->Wake();
      }
    }
    threads_.clear();
  }

  absl::StatusOr<GiveFigures> Run() {
    FERRITE_RETURN_IF_ERROR(Annotate(Greet(), "setup"));
    FERRITE_RETURN_IF_ERROR(Annotate(OpenChannels(), "connections"));
    FERRITE_RETURN_IF_ERROR(Annotate(Rounds(), "rounds"));
    FERRITE_RETURN_IF_ERROR(Annotate(SwitchOver(), "switchover"));
    FERRITE_RETURN_IF_ERROR(Annotate(SendRest(), "post-copy"));
    FERRITE_RETURN_IF_ERROR(Annotate(End(), "end"));
    const TimedMutexLock lock(&mutex_);
    return figures_;
  }

 private:
  bool has_rest() const { return options_.way != Way::kPrecopy; }
  bool Both(uint64_t feature) const { return (features_ & feature) != 0; }

  Bytes32 Digest(Claim claim) const {
    return DigestOf(secret_, {.claim = claim, .source = greeting_.source_nonce, .destination = bound_nonce_});
  }
  absl::Status Believe(capnp::Data::Reader in, Claim claim) {
    Bytes32 digest;
    FERRITE_RETURN_IF_ERROR(Get(in, digest));
    return digest == Digest(claim) ? absl::OkStatus()
                                   : absl::PermissionDeniedError("the digest is not the destination's");
  }

  absl::StatusOr<std::unique_ptr<Line>> Open(Role role, uint16_t index) {
    FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Line> line, Dial(address_, options_.tls));
    FERRITE_RETURN_IF_ERROR(line->Write(Encode(Preamble{.role = role, .index = index, .move_id = greeting_.move_id})));
    if (role == Role::kControl) {
      return line;
    }
    Bytes32 challenge;
    FERRITE_RETURN_IF_ERROR(line->Read(challenge));
    Proof proof{.epoch = 0, .nonce = RandomBytes()};
    proof.digest = DigestOf(secret_, {.claim = Claim::kChannel,
                                      .role = role,
                                      .index = index,
                                      .epoch = proof.epoch,
                                      .source = proof.nonce,
                                      .destination = line->Bind(challenge)});
    FERRITE_RETURN_IF_ERROR(line->Write(Encode(proof)));
    return line;
  }

  absl::Status Greet() {
    const Bytes32 random = RandomBytes();
    std::copy_n(random.begin(), greeting_.move_id.size(), greeting_.move_id.begin());
    FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Line> line, Open(Role::kControl, 0));
    talk_ = std::make_unique<Talk>(std::move(line));
    const Bytes32 private_key = RandomBytes();
    greeting_.source_key = PublicKeyOf(private_key);
    greeting_.source_nonce = RandomBytes();
    FERRITE_RETURN_IF_ERROR(talk_->Say([&](Control::Builder out) {
      auto hello = out.initHello();
      hello.setMoveId(DataOf(greeting_.move_id));
      hello.setVersion(kVersion);
      hello.setLowestVersion(kVersion);
      hello.setFeatures(options_.features);
      hello.setPageChannels(options_.page_channels);
      hello.setUrgentChannels(kUrgentChannels);
      hello.setKey(DataOf(greeting_.source_key));
      hello.setNonce(DataOf(greeting_.source_nonce));
    }));
    FERRITE_ASSIGN_OR_RETURN(const Heard heard, talk_->Hear(Control::WELCOME));
    const Welcome::Reader welcome = heard.message().getWelcome();
    FERRITE_RETURN_IF_ERROR(Get(welcome.getKey(), greeting_.destination_key));
    FERRITE_RETURN_IF_ERROR(Get(welcome.getNonce(), greeting_.destination_nonce));
    features_ = welcome.getFeatures();
    if (welcome.getVersion() != kVersion || (features_ & ~options_.features) != 0) {
      return absl::InvalidArgumentError("WELCOME: a version or features that were not offered");
    }
    {
      const TimedMutexLock lock(&mutex_);
      figures_.features = features_;
    }
    secret_ = SecretOf(private_key, greeting_.destination_key, greeting_);
    bound_nonce_ = talk_->line().Bind(greeting_.destination_nonce);
    return SendMachine();
  }

  absl::Status SendMachine() {
    FERRITE_RETURN_IF_ERROR(talk_->Say([&](Control::Builder out) {
      auto machine = out.initMachine();
      auto regions = machine.initRegions(static_cast<uint32_t>(guest_.regions.size()));
      for (uint32_t i = 0; i < guest_.regions.size(); ++i) {
        regions[i].setKind(Region::Kind::RAM);
        regions[i].setName(guest_.regions[i].name.c_str());
        regions[i].setBase(guest_.regions[i].base);
        regions[i].setBytes(guest_.regions[i].bytes.size());
        regions[i].setPageBytes(kPage);
      }
      machine.setKind(guest_.kind.c_str());
      machine.setVersion(guest_.version);
      machine.setMachine(DataOf(guest_.machine));
      machine.setDigest(DataOf(Digest(Claim::kMachine)));
    }));
    FERRITE_ASSIGN_OR_RETURN(const Heard heard, talk_->Hear(Control::ACCEPT));
    const Accept::Reader accept = heard.message().getAccept();
    FERRITE_RETURN_IF_ERROR(Believe(accept.getDigest(), Claim::kAccept));
    if (accept.getHostPageBytes().size() != guest_.regions.size()) {
      return absl::InvalidArgumentError("ACCEPT: another number of regions");
    }
    for (const uint64_t bytes : accept.getHostPageBytes()) {
      if (bytes != kPage) {
        return absl::InvalidArgumentError("ACCEPT: this source knows pages of 4 KiB alone");
      }
    }
    if (has_rest() && !accept.getPostcopy()) {
      return absl::InvalidArgumentError(absl::StrCat("ACCEPT: ", accept.getPostcopyReason().cStr()));
    }
    return absl::OkStatus();
  }

  absl::Status OpenChannels() {
    for (uint16_t i = 0; i < options_.page_channels; ++i) {
      FERRITE_ASSIGN_OR_RETURN(page_.emplace_back(), Open(Role::kPage, i));
    }
    for (uint16_t i = 0; i < kUrgentChannels; ++i) {
      FERRITE_ASSIGN_OR_RETURN(urgent_.emplace_back(), Open(Role::kUrgent, i));
    }
    FERRITE_ASSIGN_OR_RETURN(const Heard opened, talk_->Hear(Control::OPENED));
    FERRITE_RETURN_IF_ERROR(Believe(opened.message().getOpened().getDigest(), Claim::kOpened));
    FERRITE_RETURN_IF_ERROR(talk_->Say([](Control::Builder out) { out.setAdvise(); }));
    return talk_->Hear(Control::READY).status();
  }

  // --- Rounds ---

  // Of pages that are pending.
  absl::Status SendRound(bool last) {
    ++round_;
    FERRITE_RETURN_IF_ERROR(OnEachChannel([&](size_t channel) -> absl::Status {
      FERRITE_RETURN_IF_ERROR(SendShare(channel, /*live=*/false));
      return page_[channel]->Write(Encode(PageHeader{.type = PageType::kRound, .count = round_}));
    }));
    return talk_->Say([&](Control::Builder out) {
      auto round = out.initRound();
      round.setNumber(round_);
      round.setLast(last);
    });
  }

  absl::Status Rounds() {
    if (options_.way == Way::kPostcopy) {
      return absl::OkStatus();
    }
    FERRITE_RETURN_IF_ERROR(SendRound(/*last=*/false));
    if (Both(kResumption)) {
      // Not waited for before the next round.
      FERRITE_RETURN_IF_ERROR(Discard({}, /*last=*/true));
    }
    Repend([](uint64_t page) { return page % kAgain == 0; });
    FERRITE_RETURN_IF_ERROR(SendRound(/*last=*/false));
    return Both(kResumption) ? talk_->Hear(Control::DISCARDED).status() : absl::OkStatus();
  }

  absl::Status SwitchOver() {
    if (options_.way == Way::kPrecopy) {
      FERRITE_RETURN_IF_ERROR(Discard({}, /*last=*/true));
      FERRITE_RETURN_IF_ERROR(talk_->Hear(Control::DISCARDED).status());
      Repend([](uint64_t page) { return page % kAgain == 1; });
    } else if (options_.way == Way::kBoth) {
      FERRITE_RETURN_IF_ERROR(DiscardStale());
    }
    std::vector<std::vector<bool>> rest = Nothing();
    if (has_rest()) {
      const TimedMutexLock lock(&mutex_);
      std::swap(pending_, rest);
    }
    FERRITE_RETURN_IF_ERROR(SendRound(/*last=*/true));
    if (has_rest()) {
      {
        const TimedMutexLock lock(&mutex_);
        std::swap(pending_, rest);
      }
      FERRITE_RETURN_IF_ERROR(StartServing());
    }
    FERRITE_RETURN_IF_ERROR(talk_->Say([&](Control::Builder out) {
      auto package = out.initPackage();
      package.setVersion(guest_.state_version);
      package.setLength(guest_.state.size());
      package.setCrc32c(Crc32c(guest_.state));
      package.setBlob(DataOf(guest_.state));
      package.setPostcopy(has_rest());
    }));
    FERRITE_RETURN_IF_ERROR(talk_->Hear(Control::LOADED).status());
    FERRITE_RETURN_IF_ERROR(talk_->Say([&](Control::Builder out) {
      auto grant = out.initGrant();
      grant.setMoveId(DataOf(greeting_.move_id));
      grant.setEpoch(kEpoch);
    }));
    FERRITE_ASSIGN_OR_RETURN(const Heard running, talk_->Hear(Control::RUNNING));
    return running.message().getRunning().getEpoch() == kEpoch
               ? absl::OkStatus()
               : absl::InvalidArgumentError("RUNNING: of another epoch");
  }

  struct Stale {
    uint16_t region;
    uint64_t first;
    uint64_t count;
  };
  absl::Status Discard(const std::vector<Stale>& stale, bool last) {
    return talk_->Say([&](Control::Builder out) {
      auto discard = out.initDiscard();
      auto ranges = discard.initRanges(static_cast<uint32_t>(stale.size()));
      for (uint32_t i = 0; i < stale.size(); ++i) {
        ranges[i].setRegion(stale[i].region);
        ranges[i].setFirst(stale[i].first);
        ranges[i].setCount(stale[i].count);
      }
      discard.setLast(last);
    });
  }
  // One of so many turns, in two messages.
  absl::Status DiscardStale() {
    std::vector<Stale> stale;
    for (uint16_t i = 0; i < guest_.regions.size(); ++i) {
      const uint64_t pages = guest_.regions[i].pages.size();
      for (uint64_t first = 0; first < pages; first += kStale * kTurn) {
        stale.push_back({i, first, std::min(kTurn, pages - first)});
      }
    }
    Repend([](uint64_t page) { return page / kTurn % kStale == 0; });
    const auto half = stale.begin() + static_cast<std::ptrdiff_t>(stale.size() / 2);
    FERRITE_RETURN_IF_ERROR(Discard({stale.begin(), half}, /*last=*/false));
    FERRITE_RETURN_IF_ERROR(Discard({half, stale.end()}, /*last=*/true));
    return talk_->Hear(Control::DISCARDED).status();
  }

  // --- Behind the switchover ---

  absl::Status StartServing() {
    for (size_t i = 0; i < urgent_.size(); ++i) {
      FERRITE_ASSIGN_OR_RETURN(Thread thread, Thread::Start(absl::StrCat("v2-serve-", i), [this, i] {
                                 const absl::Status served = Serve(*urgent_[i]);
                                 const TimedMutexLock lock(&mutex_);
                                 failure_.Update(served);
                               }));
      threads_.push_back(std::move(thread));
    }
    return absl::OkStatus();
  }

  absl::Status Serve(Line& line) {
    while (true) {
      PageHeaderBytes head;
      const absl::StatusOr<bool> read = line.ReadUnlessEnded(head);
      if (!read.ok() || !*read) {
        const TimedMutexLock lock(&mutex_);
        return over_ || read.ok() ? absl::OkStatus() : read.status();
      }
      FERRITE_ASSIGN_OR_RETURN(const PageHeader request, DecodePageHeader(head));
      if (request.type != PageType::kRequest || request.region >= guest_.regions.size() ||
          request.first + request.count > guest_.regions[request.region].pages.size()) {
        return absl::InvalidArgumentError("an urgent connection brings no request, or one for what there is not");
      }
      for (uint64_t page = request.first; page < request.first + request.count; ++page) {
        const uint64_t sent = Claim(request.region, page, page + 1);
        if (sent != 0) {
          FERRITE_RETURN_IF_ERROR(line.Write(FrameOfPages(request.region, page, 1)));
        }
        const TimedMutexLock lock(&mutex_);
        figures_.requests += sent;
      }
    }
  }

  absl::Status SendRest() {
    if (!has_rest()) {
      return absl::OkStatus();
    }
    {
      const TimedMutexLock lock(&mutex_);
      const auto asked = [this] {
        mutex_.AssertHeld();
        return figures_.requests >= kRequests || !failure_.ok();
      };
      if (!mutex_.AwaitFor(absl::Condition(&asked), kPatience)) {
        return absl::DeadlineExceededError("a guest that runs without its memory asks for none");
      }
      FERRITE_RETURN_IF_ERROR(failure_);
    }
    return OnEachChannel([&](size_t channel) -> absl::Status {
      FERRITE_RETURN_IF_ERROR(SendShare(channel, /*live=*/true));
      return page_[channel]->Write(Encode(PageHeader{.type = PageType::kRound, .count = kLastRound}));
    });
  }

  absl::Status End() {
    FERRITE_RETURN_IF_ERROR(talk_->Say([](Control::Builder out) { out.setEnd(); }));
    FERRITE_ASSIGN_OR_RETURN(const Heard heard, talk_->Hear(Control::SHUT));
    const Shut::Reader shut = heard.message().getShut();
    if (!shut.getOk()) {
      return absl::AbortedError(absl::StrCat("SHUT: ", shut.getMessage().cStr()));
    }
    const TimedMutexLock lock(&mutex_);
    over_ = true;
    figures_.faults = shut.getFigures().getFaults();
    FERRITE_RETURN_IF_ERROR(failure_);
    return Both(kRecovery) ? talk_->Say([](Control::Builder out) { out.setHeard(); }) : absl::OkStatus();
  }

  // --- Pages ---

  std::vector<std::vector<bool>> Nothing() const {
    std::vector<std::vector<bool>> nothing;
    for (const GuestRegion& region : guest_.regions) {
      nothing.emplace_back(region.pages.size(), false);
    }
    return nothing;
  }
  void Repend(absl::FunctionRef<bool(uint64_t page)> which) {
    const TimedMutexLock lock(&mutex_);
    for (std::vector<bool>& region : pending_) {
      for (uint64_t page = 0; page < region.size(); ++page) {
        region[page] = region[page] || which(page);
      }
    }
  }

  // Of the pages from `first` on those that are to go and are of one kind: so many of them are the caller's to send.
  uint64_t Claim(size_t region, uint64_t first, uint64_t end) {
    const TimedMutexLock lock(&mutex_);
    uint64_t page = first;
    const PageType type = TypeOf(region, first);
    while (page < end && pending_[region][page] && TypeOf(region, page) == type) {
      pending_[region][page++] = false;
    }
    return page - first;
  }
  PageType TypeOf(size_t region, uint64_t page) const {
    const GuestRegion& of = guest_.regions[region];
    return of.pages[page] == PageState::kLost ? PageType::kPoison
           : IsZero(of.page(page))            ? PageType::kZero
                                              : PageType::kPages;
  }
  Bytes FrameOfPages(size_t region, uint64_t first, uint64_t count) const {
    const PageHeader header{.type = TypeOf(region, first),
                            .region = static_cast<uint16_t>(region),
                            .first = first,
                            .count = static_cast<uint32_t>(count)};
    if (header.type == PageType::kPages) {
      return PagesFrame(header.region, first, guest_.regions[region].page(first, count));
    }
    const PageHeaderBytes bytes = Encode(header);
    return {bytes.begin(), bytes.end()};
  }

  absl::Status SendShare(size_t channel, bool live) {
    for (size_t region = 0; region < guest_.regions.size(); ++region) {
      const uint64_t pages = guest_.regions[region].pages.size();
      for (uint64_t turn = channel * kTurn; turn < pages; turn += page_.size() * kTurn) {
        const uint64_t end = std::min(turn + kTurn, pages);
        for (uint64_t page = turn; page < end;) {
          const uint64_t count = Claim(region, page, end);
          if (count == 0) {
            ++page;
            continue;
          }
          FERRITE_RETURN_IF_ERROR(page_[channel]->Write(FrameOfPages(region, page, count)));
          uint8_t placed = kPlaced;
          FERRITE_RETURN_IF_ERROR(live ? page_[channel]->Read({&placed, 1}) : absl::OkStatus());
          if (placed != kPlaced) {
            return absl::InvalidArgumentError("a page connection brings something else than that pages are in place");
          }
          page += count;
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status OnEachChannel(absl::FunctionRef<absl::Status(size_t channel)> body) {
    std::vector<absl::Status> results(page_.size());
    {
      std::vector<Thread> threads;
      for (size_t i = 0; i < page_.size(); ++i) {
        FERRITE_ASSIGN_OR_RETURN(
            Thread thread, Thread::Start(absl::StrCat("v2-give-", i), [&results, &body, i] { results[i] = body(i); }));
        threads.push_back(std::move(thread));
      }
    }
    for (const absl::Status& result : results) {
      FERRITE_RETURN_IF_ERROR(result);
    }
    return absl::OkStatus();
  }

  const Guest& guest_;
  const std::string& address_;
  const GiveOptions options_;
  std::unique_ptr<Talk> talk_;
  std::vector<std::unique_ptr<Line>> page_;
  std::vector<std::unique_ptr<Line>> urgent_;
  std::vector<Thread> threads_;  // of urgent connections
  Greeting greeting_;
  Bytes32 bound_nonce_{};
  Bytes32 secret_{};
  uint64_t features_ = 0;
  uint32_t round_ = 0;

  TimedMutex mutex_;
  std::vector<std::vector<bool>> pending_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  GiveFigures figures_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<GiveFigures> Give(const Guest& guest, const std::string& address, const GiveOptions& options) {
  return Giver(guest, address, options).Run();
}

}  // namespace ferrite::version2
