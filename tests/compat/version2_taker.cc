#include "tests/compat/version2_taker.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status.h"

namespace ferrite::version2 {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
// Of what is missing, on each urgent connection.
constexpr size_t kRequests = 4;

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

absl::Status Ended(const absl::Status& status, absl::string_view which) {
  return absl::UnavailableError(absl::StrCat(which, " ended before the pages did: ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Taker>> Taker::Create(absl::string_view address, const Options& options) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Listener> listener, Listener::Create(address));
  return std::unique_ptr<Taker>(new Taker(std::move(listener), options));
}

Taker::~Taker() {
  for (const auto* lines : {&page_, &urgent_}) {
    for (const std::unique_ptr<Line>& line : *lines) {
      if (line != nullptr) {
        line->Wake();
      }
    }
  }
  (void)FirstFailure(absl::CancelledError("the destination has ended"));
  threads_.clear();
}

absl::StatusOr<Guest> Taker::Take() {
  const auto take = [&]() -> absl::Status {
    FERRITE_RETURN_IF_ERROR(Annotate(Greet(), "setup"));
    FERRITE_RETURN_IF_ERROR(Annotate(TakeConnections(), "connections"));
    FERRITE_RETURN_IF_ERROR(Annotate(ReceiveUntilRunning(), "rounds"));
    return Annotate(End(), "end");
  };
  FERRITE_RETURN_IF_ERROR(FirstFailure(take()));
  const TimedMutexLock lock(&mutex_);
  return std::move(guest_);
}

absl::Status Taker::FirstFailure(absl::Status status) {
  const TimedMutexLock lock(&mutex_);
  failure_.Update(status);
  return failure_;
}

absl::Status Taker::Await(absl::string_view what, absl::FunctionRef<bool()> condition) {
  const TimedMutexLock lock(&mutex_);
  const auto due = [&] {
    mutex_.AssertHeld();
    return !failure_.ok() || condition();
  };
  if (!mutex_.AwaitFor(absl::Condition(&due), kPatience)) {
    return absl::DeadlineExceededError(absl::StrCat("waited for ", what));
  }
  return failure_;
}

uint64_t Taker::Count(PageState state) const {
  uint64_t count = 0;
  for (const GuestRegion& region : guest_.regions) {
    count += static_cast<uint64_t>(std::count(region.pages.begin(), region.pages.end(), state));
  }
  return count;
}

Bytes32 Taker::Digest(Claim claim) const {
  return DigestOf(secret_, {.claim = claim, .source = greeting_.source_nonce, .destination = bound_nonce_});
}

// --- Setup ---

absl::Status Taker::Greet() {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Line> line, listener_->Accept(options_.tls));
  PreambleBytes bytes;
  FERRITE_RETURN_IF_ERROR(line->Read(bytes));
  FERRITE_ASSIGN_OR_RETURN(preamble_, DecodePreamble(bytes));
  if (preamble_.role != Role::kControl || preamble_.index != 0) {
    return Wrong("the first connection is no control connection");
  }
  talk_ = std::make_unique<Talk>(std::move(line));
  talk_->SetMostBytes(kMostBytesBeforeAccept);
  FERRITE_ASSIGN_OR_RETURN(const Heard heard, talk_->Hear(Control::HELLO));
  const Hello::Reader hello = heard.message().getHello();
  FERRITE_RETURN_IF_ERROR(Get(hello.getMoveId(), greeting_.move_id));
  FERRITE_RETURN_IF_ERROR(Get(hello.getKey(), greeting_.source_key));
  FERRITE_RETURN_IF_ERROR(Get(hello.getNonce(), greeting_.source_nonce));
  if (greeting_.move_id != preamble_.move_id) {
    return Wrong("HELLO is of another move than the preamble");
  }
  if (hello.getVersion() < kVersion || hello.getLowestVersion() > kVersion) {
    return Wrong("HELLO: the source does not speak version 2");
  }
  if (hello.getPageChannels() == 0 || hello.getPageChannels() > 16 || hello.getUrgentChannels() > 16) {
    return Wrong("HELLO: another number of connections than there may be");
  }
  page_.resize(hello.getPageChannels());
  urgent_.resize(hello.getUrgentChannels());
  figures_.page_channels = page_.size();
  figures_.features = hello.getFeatures() & options_.features;
  const Bytes32 private_key = RandomBytes();
  greeting_.destination_key = PublicKeyOf(private_key);
  greeting_.destination_nonce = RandomBytes();
  FERRITE_RETURN_IF_ERROR(talk_->Say([&](Control::Builder out) {
    auto welcome = out.initWelcome();
    welcome.setVersion(kVersion);
    welcome.setFeatures(figures_.features);
    welcome.setKey(DataOf(greeting_.destination_key));
    welcome.setNonce(DataOf(greeting_.destination_nonce));
  }));
  secret_ = SecretOf(private_key, greeting_.source_key, greeting_);
  bound_nonce_ = talk_->line().Bind(greeting_.destination_nonce);
  FERRITE_ASSIGN_OR_RETURN(const Heard machine, talk_->Hear(Control::MACHINE));
  FERRITE_RETURN_IF_ERROR(TakeMachine(machine.message()));
  talk_->SetMostBytes(kMostBytes);
  return absl::OkStatus();
}

absl::Status Taker::TakeMachine(Control::Reader message) {
  const Machine::Reader machine = message.getMachine();
  Bytes32 digest;
  FERRITE_RETURN_IF_ERROR(Get(machine.getDigest(), digest));
  if (digest != Digest(Claim::kMachine)) {
    return absl::PermissionDeniedError("MACHINE: the digest is not the source's");
  }
  std::vector<uint64_t> page_bytes;
  {
    const TimedMutexLock lock(&mutex_);
    guest_.kind = machine.getKind().cStr();
    guest_.version = machine.getVersion();
    guest_.machine.assign(machine.getMachine().begin(), machine.getMachine().end());
    for (const Region::Reader region : machine.getRegions()) {
      if (region.getKind() == Region::Kind::DISK) {
        page_bytes.push_back(0);
        continue;
      }
      if (region.getKind() != Region::Kind::RAM || region.getBytes() == 0 || region.getPageBytes() < kPage ||
          region.getBytes() % region.getPageBytes() != 0 || region.getBase() % region.getPageBytes() != 0) {
        return Wrong("MACHINE: a region that cannot be");
      }
      page_bytes.push_back(kPage);
      guest_.regions.push_back({.name = region.getName().cStr(),
                                .base = region.getBase(),
                                .bytes = Bytes(region.getBytes()),
                                .pages = std::vector<PageState>(region.getBytes() / kPage)});
      came_in_.emplace_back(region.getBytes() / kPage);
    }
    reached_.resize(page_.size());
  }
  return talk_->Say([&](Control::Builder out) {
    auto accept = out.initAccept();
    auto sizes = accept.initHostPageBytes(static_cast<uint32_t>(page_bytes.size()));
    for (uint32_t i = 0; i < page_bytes.size(); ++i) {
      sizes.set(i, page_bytes[i]);
    }
    accept.setPostcopy((figures_.features & kPostcopy) != 0);
    accept.setPostcopyReason((figures_.features & kPostcopy) != 0 ? "" : "this side knows no post-copy");
    accept.setDigest(DataOf(Digest(Claim::kAccept)));
  });
}

absl::Status Taker::TakeConnection() {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Line> line, listener_->Accept(options_.tls));
  PreambleBytes bytes;
  FERRITE_RETURN_IF_ERROR(line->Read(bytes));
  FERRITE_ASSIGN_OR_RETURN(const Preamble preamble, DecodePreamble(bytes));
  const Bytes32 challenge = RandomBytes();
  ProofBytes answer;
  FERRITE_RETURN_IF_ERROR(line->Write(challenge));
  FERRITE_RETURN_IF_ERROR(line->Read(answer));
  const Proof proof = DecodeProof(answer);
  if (preamble.move_id != preamble_.move_id || proof.epoch != 0 || line->party() != talk_->line().party() ||
      proof.digest != DigestOf(secret_, {.claim = Claim::kChannel,
                                         .role = preamble.role,
                                         .index = preamble.index,
                                         .epoch = proof.epoch,
                                         .source = proof.nonce,
                                         .destination = line->Bind(challenge)})) {
    return absl::PermissionDeniedError("a connection does not belong to the move");
  }
  if (preamble.role != Role::kPage && preamble.role != Role::kUrgent) {
    return Wrong("a connection of another role than page and urgent");
  }
  auto& lines = preamble.role == Role::kPage ? page_ : urgent_;
  if (preamble.index >= lines.size() || lines[preamble.index] != nullptr) {
    return Wrong("a connection has an index that is taken, or none that was announced");
  }
  lines[preamble.index] = std::move(line);
  return absl::OkStatus();
}

absl::Status Taker::TakeConnections() {
  for (size_t i = 0; i < page_.size() + urgent_.size(); ++i) {
    FERRITE_RETURN_IF_ERROR(TakeConnection());
  }
  FERRITE_RETURN_IF_ERROR(
      talk_->Say([&](Control::Builder out) { out.initOpened().setDigest(DataOf(Digest(Claim::kOpened))); }));
  FERRITE_RETURN_IF_ERROR(talk_->Hear(Control::ADVISE).status());
  FERRITE_RETURN_IF_ERROR(talk_->Say([](Control::Builder out) { out.initReady().setLoadNanoseconds(1'000'000); }));
  for (size_t i = 0; i < page_.size(); ++i) {
    FERRITE_ASSIGN_OR_RETURN(Thread thread, Thread::Start(absl::StrCat("v2-take-", i),
                                                          [this, i] { Run([this, i] { return ReceivePages(i); }); }));
    threads_.push_back(std::move(thread));
  }
  return absl::OkStatus();
}

// --- Until the guest would run here ---

absl::Status Taker::ReceiveUntilRunning() {
  while (true) {
    FERRITE_ASSIGN_OR_RETURN(const Heard heard, talk_->Hear());
    const Control::Reader message = heard.message();
    switch (message.which()) {
      case Control::ROUND:
        FERRITE_RETURN_IF_ERROR(OnRound(message.getRound()));
        break;
      case Control::DISCARD:
        FERRITE_RETURN_IF_ERROR(OnDiscard(message.getDiscard()));
        break;
      case Control::PACKAGE:
        FERRITE_RETURN_IF_ERROR(OnPackage(message.getPackage()));
        break;
      case Control::GRANT: {
        MoveId id;
        FERRITE_RETURN_IF_ERROR(Get(message.getGrant().getMoveId(), id));
        const TimedMutexLock lock(&mutex_);
        if (id != preamble_.move_id || message.getGrant().getEpoch() == 0 || guest_.state.empty()) {
          return Wrong("GRANT: of another move, without an epoch, or before PACKAGE");
        }
        return talk_->Say(
            [epoch = message.getGrant().getEpoch()](Control::Builder out) { out.initRunning().setEpoch(epoch); });
      }
      default:
        return Wrong(absl::StrCat("message ", static_cast<uint16_t>(message.which()), " is none of the rounds"));
    }
  }
}

absl::Status Taker::OnRound(Round::Reader round) {
  const uint32_t number = round.getNumber();
  if (number != figures_.rounds + 1) {
    return Wrong(absl::StrCat("ROUND ", number, " follows round ", figures_.rounds));
  }
  figures_.rounds = number;
  FERRITE_RETURN_IF_ERROR(Await("the end of a round", [&] {
    mutex_.AssertHeld();
    return std::all_of(reached_.begin(), reached_.end(), [number](uint32_t reached) { return reached == number; });
  }));
  if (!round.getLast()) {
    const TimedMutexLock lock(&mutex_);
    open_ = number;
  }
  return absl::OkStatus();
}

absl::Status Taker::OnDiscard(Discard::Reader discard) {
  if (discard.getRanges().size() > kMostRanges) {
    return Wrong("DISCARD: more ranges than may be");
  }
  {
    const TimedMutexLock lock(&mutex_);
    if (live_ || over_) {
      return Wrong("DISCARD came behind PACKAGE");
    }
    for (const Range::Reader range : discard.getRanges()) {
      if (range.getRegion() >= guest_.regions.size() ||
          range.getFirst() + range.getCount() > guest_.regions[range.getRegion()].pages.size()) {
        return Wrong("DISCARD: pages that there are not");
      }
      GuestRegion& region = guest_.regions[range.getRegion()];
      std::fill_n(region.pages.begin() + static_cast<std::ptrdiff_t>(range.getFirst()), range.getCount(),
                  PageState::kMissing);
      std::ranges::fill(region.page(range.getFirst(), range.getCount()), uint8_t{0xdd});
      figures_.discarded_pages += range.getCount();
    }
  }
  // Rounds that were told of before are in place.
  return discard.getLast() ? talk_->Say([](Control::Builder out) { out.setDiscarded(); }) : absl::OkStatus();
}

absl::Status Taker::OnPackage(Package::Reader package) {
  const std::span<const uint8_t> blob(package.getBlob().begin(), package.getBlob().size());
  if (package.getVersion() != 1 || package.getLength() != blob.size() || package.getCrc32c() != Crc32c(blob) ||
      blob.empty()) {
    return Wrong("PACKAGE: its version, length or sum is wrong");
  }
  figures_.postcopy = package.getPostcopy();
  if (figures_.postcopy && (figures_.features & (kPostcopy | kPoisonedPages)) != (kPostcopy | kPoisonedPages)) {
    return Wrong("PACKAGE: post-copy, which was not agreed on");
  }
  {
    const TimedMutexLock lock(&mutex_);
    const bool at_end =
        std::all_of(reached_.begin(), reached_.end(), [this](uint32_t reached) { return reached == figures_.rounds; });
    if (!at_end || open_ == figures_.rounds || Count(PageState::kDoubtful) != 0 ||
        (!figures_.postcopy && Count(PageState::kMissing) != 0)) {
      return Wrong(absl::StrCat("PACKAGE: before the last round, or ", Count(PageState::kDoubtful),
                                " pages are in doubt, or ", Count(PageState::kMissing), " were never sent"));
    }
    guest_.state_version = package.getVersion();
    guest_.state.assign(blob.begin(), blob.end());
    live_ = figures_.postcopy;
    over_ = !figures_.postcopy;
  }
  if (figures_.postcopy) {
    for (size_t i = 0; i < urgent_.size(); ++i) {
      FERRITE_ASSIGN_OR_RETURN(Thread thread, Thread::Start(absl::StrCat("v2-ask-", i), [this, i] {
                                 Run([this, i] { return ReceiveAnswers(i); });
                               }));
      threads_.push_back(std::move(thread));
    }
    // As one whose loading touches memory.
    FERRITE_RETURN_IF_ERROR(Await("pages that were asked for", [&] {
      mutex_.AssertHeld();
      return figures_.urgent_pages >= urgent_.size() * kRequests || Count(PageState::kMissing) == 0;
    }));
  }
  return talk_->Say([](Control::Builder out) { out.initLoaded().setLoadNanoseconds(2'000'000); });
}

absl::Status Taker::End() {
  FERRITE_RETURN_IF_ERROR(talk_->Hear(Control::END).status());
  FERRITE_RETURN_IF_ERROR(Await("the last pages", [&] {
    mutex_.AssertHeld();
    return !figures_.postcopy || ended_ == page_.size();
  }));
  {
    const TimedMutexLock lock(&mutex_);
    if (const uint64_t missing = Count(PageState::kMissing); missing != 0) {
      return Wrong(absl::StrCat("END: ", missing, " pages never came"));
    }
    all_here_ = true;
  }
  FERRITE_RETURN_IF_ERROR(talk_->Say([&](Control::Builder out) {
    auto shut = out.initShut();
    shut.setOk(true);
    auto figures = shut.initFigures();
    figures.setFaults(figures_.urgent_pages);
    auto waiting = figures.initWaiting(1);
    waiting[0].setVcpu(0xffffffff);
    waiting[0].setCount(figures_.urgent_pages);
  }));
  if ((figures_.features & kRecovery) != 0) {
    FERRITE_RETURN_IF_ERROR(talk_->Hear(Control::HEARD).status());
  }
  // The source closes all of them.
  threads_.clear();
  return talk_->HearEnd();
}

// --- Pages ---

void Taker::Run(absl::FunctionRef<absl::Status()> body) {
  if (const absl::Status status = body(); !status.ok()) {
    (void)FirstFailure(status);
  }
}

absl::Status Taker::ReceivePages(size_t channel) {
  Line& line = *page_[channel];
  bool live = false;
  bool over = false;
  while (!over) {
    PageHeaderBytes head;
    const absl::StatusOr<bool> read = line.ReadUnlessEnded(head);
    if (!read.ok() || !*read) {
      // A source that has heard that all is here does not read any more that it was placed: its socket is reset.
      const TimedMutexLock lock(&mutex_);
      return all_here_ ? absl::OkStatus() : Ended(read.status(), "a page connection");
    }
    FERRITE_ASSIGN_OR_RETURN(const PageHeader header, DecodePageHeader(head));
    if (header.type == PageType::kRound) {
      FERRITE_RETURN_IF_ERROR(ArriveAtRound(channel, header.count, live, over));
      continue;
    }
    FERRITE_RETURN_IF_ERROR(Place(header, line, live));
    if (live) {
      FERRITE_RETURN_IF_ERROR(line.Write({&kPlaced, 1}));
    }
  }
  return absl::OkStatus();
}

absl::Status Taker::ArriveAtRound(size_t channel, uint32_t round, bool& live, bool& over) {
  {
    const TimedMutexLock lock(&mutex_);
    if (live != (round == kLastRound)) {
      return Wrong("the end of the pages in the rounds, or a round behind them");
    }
    if (live) {
      ++ended_;
      return absl::OkStatus();
    }
    reached_[channel] = round;
  }
  // Nothing of the next round, and nothing behind the last one, before the others have ended this one.
  FERRITE_RETURN_IF_ERROR(Await("the control connection at the end of a round", [&] {
    mutex_.AssertHeld();
    return open_ >= round || live_ || over_;
  }));
  const TimedMutexLock lock(&mutex_);
  live = live_;
  over = over_;
  return absl::OkStatus();
}

absl::Status Taker::ReceiveAnswers(size_t channel) {
  Line& line = *urgent_[channel];
  std::vector<PageHeader> wanted;
  {
    const TimedMutexLock lock(&mutex_);
    const uint64_t missing = Count(PageState::kMissing);
    const uint64_t step = std::max<uint64_t>(1, missing / (urgent_.size() * kRequests));
    uint64_t seen = 0;
    for (uint16_t region = 0; region < guest_.regions.size(); ++region) {
      for (uint64_t page = 0; page < guest_.regions[region].pages.size(); ++page) {
        if (guest_.regions[region].pages[page] != PageState::kMissing || seen++ % step != 0 ||
            (seen - 1) / step % urgent_.size() != channel || wanted.size() == kRequests) {
          continue;
        }
        wanted.push_back({.type = PageType::kRequest, .region = region, .first = page, .count = 1});
      }
    }
  }
  for (const PageHeader& request : wanted) {
    FERRITE_RETURN_IF_ERROR(line.Write(Encode(request)));
  }
  while (true) {
    PageHeaderBytes head;
    const absl::StatusOr<bool> read = line.ReadUnlessEnded(head);
    if (!read.ok() || !*read) {
      const TimedMutexLock lock(&mutex_);
      return all_here_ ? absl::OkStatus() : Ended(read.status(), "an urgent connection");
    }
    FERRITE_ASSIGN_OR_RETURN(const PageHeader header, DecodePageHeader(head));
    if (header.type == PageType::kRound) {
      return Wrong("ROUND came over an urgent connection");
    }
    FERRITE_RETURN_IF_ERROR(Place(header, line, /*live=*/true));
    const TimedMutexLock lock(&mutex_);
    figures_.urgent_pages += header.count;
  }
}

absl::Status Taker::Place(const PageHeader& header, Line& line, bool live) {
  Bytes sums;
  Bytes data;
  if (header.type == PageType::kPages) {
    sums.resize(4 * header.count);
    data.resize(kPage * header.count);
    FERRITE_RETURN_IF_ERROR(line.Read(sums));
    FERRITE_RETURN_IF_ERROR(line.Read(data));
  }
  std::vector<bool> right(header.count, true);
  for (uint32_t i = 0; i < header.count && !data.empty(); ++i) {
    right[i] = Crc32c(std::span<const uint8_t>(data).subspan(i * kPage, kPage)) == Get(&sums[4 * size_t{i}], 4);
  }
  const TimedMutexLock lock(&mutex_);
  if (header.type == PageType::kRequest || header.region >= guest_.regions.size() ||
      header.first + header.count > guest_.regions[header.region].pages.size()) {
    return Wrong("page frame: a request, or pages that there are not");
  }
  if (header.type == PageType::kPoison && (figures_.features & kPoisonedPages) == 0) {
    return Wrong("page frame: POISON, which was not agreed on");
  }
  GuestRegion& region = guest_.regions[header.region];
  for (uint32_t i = 0; i < header.count; ++i) {
    const uint64_t page = header.first + i;
    const std::span<uint8_t> bytes = region.page(page);
    PageState state = PageState::kHere;
    if (header.type == PageType::kPages) {
      std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(i * kPage), kPage, bytes.begin());
      if (!right[i] && live) {
        return absl::DataLossError("page frame: a page came with other bytes than its sum's");
      }
      state = right[i] ? PageState::kHere : PageState::kDoubtful;
    } else {
      std::ranges::fill(bytes, uint8_t{0});
      state = header.type == PageType::kZero ? PageState::kHere : PageState::kLost;
    }
    FERRITE_RETURN_IF_ERROR(Mark(region, header, page, state, live));
  }
  (live ? figures_.rest_pages : figures_.round_pages) += header.count;
  return absl::OkStatus();
}

absl::Status Taker::Mark(GuestRegion& region, const PageHeader& header, uint64_t page, PageState state, bool live) {
  mutex_.AssertHeld();
  // Lost pages may come twice: the header of their frame had gone.
  uint32_t& came_in = came_in_[header.region][page];
  const uint32_t round = open_ + 1;
  if (state != PageState::kLost && (live ? region.pages[page] != PageState::kMissing : came_in == round)) {
    return Wrong(absl::StrCat("page frame: page ", page, " of region ", header.region, " came twice in round ", round));
  }
  came_in = round;
  region.pages[page] = state;
  return absl::OkStatus();
}

}  // namespace ferrite::version2
