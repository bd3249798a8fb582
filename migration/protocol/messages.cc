#include "migration/protocol/messages.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>
#include <kj/io.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/stream.capnp.h"

namespace ferrite::migration {
namespace {

// --- From structs ---

kj::ArrayPtr<const kj::byte> BytesOf(std::span<const uint8_t> bytes) { return {bytes.data(), bytes.size()}; }

kj::StringPtr TextOf(const std::string& text) { return {text.c_str(), text.size()}; }

uint64_t NanosecondsOf(absl::Duration duration) {
  return static_cast<uint64_t>(absl::ToInt64Nanoseconds(std::max(duration, absl::ZeroDuration())));
}

template <typename Builder>
void PutRanges(const std::vector<PageRange>& ranges, Builder message) {
  auto out = message.initRanges(static_cast<uint32_t>(ranges.size()));
  for (uint32_t i = 0; i < ranges.size(); ++i) {
    out[i].setRegion(ranges[i].region);
    out[i].setFirst(ranges[i].first);
    out[i].setCount(ranges[i].count);
  }
}

void PutFigures(const message::DestinationFigures& figures, stream::DestinationFigures::Builder out) {
  out.setFaults(figures.faults);
  out.setMinorFaults(figures.minor_faults);
  out.setDuplicatePages(figures.duplicate_pages);
  out.setHostWait(NanosecondsOf(figures.host_wait));
  out.setEntryWait(NanosecondsOf(figures.entry_wait));
  auto waiting = out.initWaiting(static_cast<uint32_t>(figures.waiting.size()));
  for (uint32_t i = 0; i < figures.waiting.size(); ++i) {
    const WaitingFigures& wait = figures.waiting[i];
    waiting[i].setVcpu(wait.vcpu);
    waiting[i].setCount(wait.count);
    waiting[i].setP50(NanosecondsOf(wait.p50));
    waiting[i].setP99(NanosecondsOf(wait.p99));
    waiting[i].setMax(NanosecondsOf(wait.max));
    waiting[i].setSum(NanosecondsOf(wait.sum));
  }
}

class Writer {
 public:
  explicit Writer(stream::Control::Builder out) : out_(out) {}

  void operator()(const message::Hello& hello) {
    auto out = out_.initHello();
    out.setMoveId(BytesOf(hello.move_id));
    out.setVersion(hello.versions.newest);
    out.setLowestVersion(hello.versions.lowest);
    out.setFeatures(hello.features);
    out.setPageChannels(hello.page_channels);
    out.setUrgentChannels(hello.urgent_channels);
    out.setKey(BytesOf(hello.key));
    out.setNonce(BytesOf(hello.nonce));
  }
  void operator()(const message::Welcome& welcome) {
    auto out = out_.initWelcome();
    out.setVersion(welcome.version);
    out.setFeatures(welcome.features);
    out.setKey(BytesOf(welcome.key));
    out.setNonce(BytesOf(welcome.nonce));
  }
  void operator()(const message::Machine& machine) {
    const MachineSpec& spec = machine.spec;
    auto out = out_.initMachine();
    auto regions = out.initRegions(static_cast<uint32_t>(spec.regions.size()));
    for (uint32_t i = 0; i < spec.regions.size(); ++i) {
      regions[i].setKind(static_cast<stream::Region::Kind>(spec.regions[i].kind));
      regions[i].setName(TextOf(spec.regions[i].name));
      regions[i].setBase(spec.regions[i].base);
      regions[i].setBytes(spec.regions[i].bytes);
      regions[i].setPageBytes(spec.regions[i].page_bytes);
    }
    out.setKind(TextOf(spec.kind));
    out.setVersion(spec.version);
    out.setMachine(BytesOf(spec.machine));
    out.setDigest(BytesOf(machine.digest));
  }
  void operator()(const message::Accept& accept) {
    auto out = out_.initAccept();
    auto sizes = out.initHostPageBytes(static_cast<uint32_t>(accept.host_page_bytes.size()));
    for (uint32_t i = 0; i < accept.host_page_bytes.size(); ++i) {
      sizes.set(i, accept.host_page_bytes[i]);
    }
    out.setPostcopy(accept.postcopy);
    out.setPostcopyReason(TextOf(accept.postcopy_reason));
    out.setDigest(BytesOf(accept.digest));
  }
  void operator()(const message::Refuse& refuse) { out_.initRefuse().setReason(TextOf(refuse.reason)); }
  void operator()(const message::Advise&) { out_.setAdvise(); }
  void operator()(const message::Ready& ready) { out_.initReady().setLoadNanoseconds(NanosecondsOf(ready.load)); }
  void operator()(const message::Round& round) {
    auto out = out_.initRound();
    out.setNumber(round.number);
    out.setLast(round.last);
  }
  void operator()(const message::Discard& discard) {
    auto out = out_.initDiscard();
    PutRanges(discard.ranges, out);
    out.setLast(discard.last);
  }
  void operator()(const message::Discarded&) { out_.setDiscarded(); }
  void operator()(const message::Package& package) {
    auto out = out_.initPackage();
    out.setVersion(package.version);
    out.setLength(package.blob.size());
    out.setCrc32c(Crc32c(package.blob));
    out.setBlob(BytesOf(package.blob));
    out.setPostcopy(package.postcopy);
  }
  void operator()(const message::Loaded& loaded) { out_.initLoaded().setLoadNanoseconds(NanosecondsOf(loaded.load)); }
  void operator()(const message::Grant& grant) {
    auto out = out_.initGrant();
    out.setMoveId(BytesOf(grant.move_id));
    out.setEpoch(grant.epoch);
  }
  void operator()(const message::Running& running) { out_.initRunning().setEpoch(running.epoch); }
  void operator()(const message::End&) { out_.setEnd(); }
  void operator()(const message::Shut& shut) {
    auto out = out_.initShut();
    out.setOk(shut.ok);
    out.setMessage(TextOf(shut.message));
    PutFigures(shut.figures, out.initFigures());
  }
  void operator()(const message::Ping& ping) { out_.initPing().setToken(ping.token); }
  void operator()(const message::Pong& pong) { out_.initPong().setToken(pong.token); }
  void operator()(const message::Error& error) { out_.initError().setMessage(TextOf(error.message)); }
  void operator()(const message::Cancel& cancel) { out_.initCancel().setMessage(TextOf(cancel.message)); }
  void operator()(const message::Heard&) { out_.setHeard(); }
  void operator()(const message::Recover& recover) {
    auto out = out_.initRecover();
    out.setMoveId(BytesOf(recover.move_id));
    out.setEpoch(recover.epoch);
    out.setPageChannels(recover.page_channels);
    out.setUrgentChannels(recover.urgent_channels);
  }
  void operator()(const message::Standing& standing) {
    auto out = out_.initStanding();
    out.setGranted(standing.granted);
    out.setDigest(BytesOf(standing.digest));
  }
  void operator()(const message::Revoke&) { out_.setRevoke(); }
  void operator()(const message::Revoked&) { out_.setRevoked(); }
  void operator()(const message::Missing& missing) {
    auto out = out_.initMissing();
    PutRanges(missing.ranges, out);
    out.setLast(missing.last);
  }
  void operator()(const message::Opened& opened) { out_.initOpened().setDigest(BytesOf(opened.digest)); }
  void operator()(const message::Broken& broken) {
    auto out = out_.initBroken();
    out.setChannel(broken.channel);
    PutRanges(broken.missing, out);
    out.setLast(broken.last);
  }

 private:
  stream::Control::Builder out_;
};

// --- To structs: of the other side, which may say anything ---

capnp::ReaderOptions Limits(size_t words) {
  capnp::ReaderOptions options;
  // Every word may be read a few times, never without bound.
  options.traversalLimitInWords = 8 * words + 1024;
  options.nestingLimit = 16;
  return options;
}

// Cap'n Proto throws when a message is malformed; nothing of that leaves this file.
absl::Status Guard(absl::FunctionRef<absl::Status()> body) {
  return CatchOutOfMemory([&]() -> absl::Status {
    absl::Status status;
    // A lack of memory here is nothing that the peer did.
    KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] { status = CatchOutOfMemory(body); })) {
      return absl::InvalidArgumentError(
          absl::StrCat("control frame: malformed message (", CleanText(exception->getDescription().cStr()), ")"));
    }
    return status;
  });
}

std::string Owned(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

absl::Duration DurationOf(uint64_t nanoseconds) {
  return absl::Nanoseconds(static_cast<int64_t>(std::min<uint64_t>(nanoseconds, INT64_MAX)));
}

absl::Status CheckCount(absl::string_view name, size_t count, absl::string_view what, size_t most) {
  if (count > most) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", count, " ", what, ", at most ", most, " are allowed"));
  }
  return absl::OkStatus();
}

template <size_t kSize>
absl::Status GetBytes(absl::string_view name, absl::string_view what, capnp::Data::Reader in,
                      std::array<uint8_t, kSize>& out) {
  if (in.size() != kSize) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", what, " has ", in.size(), " bytes"));
  }
  std::copy(in.begin(), in.end(), out.begin());
  return absl::OkStatus();
}

absl::Status GetId(absl::string_view name, capnp::Data::Reader in, MoveId& id) {
  return GetBytes(name, "the move's id", in, id);
}

// Of a message that has nothing else that needs a look.
template <typename T, typename Reader>
absl::StatusOr<Message> WithDigest(T message, Reader in) {
  FERRITE_RETURN_IF_ERROR(GetBytes(T::kName, "the digest", in.getDigest(), message.digest));
  return message;
}

absl::StatusOr<std::vector<PageRange>> RangesOf(absl::string_view name, capnp::List<stream::Range>::Reader in) {
  FERRITE_RETURN_IF_ERROR(CheckCount(name, in.size(), "ranges", kMaxRanges));
  std::vector<PageRange> ranges;
  ranges.reserve(in.size());
  for (const stream::Range::Reader range : in) {
    ranges.push_back({.region = range.getRegion(), .first = range.getFirst(), .count = range.getCount()});
  }
  return ranges;
}

absl::StatusOr<Message> Read(stream::Hello::Reader in) {
  message::Hello hello{.versions = {.lowest = in.getLowestVersion(), .newest = in.getVersion()},
                       .features = in.getFeatures(),
                       .page_channels = in.getPageChannels(),
                       .urgent_channels = in.getUrgentChannels()};
  FERRITE_RETURN_IF_ERROR(GetId(message::Hello::kName, in.getMoveId(), hello.move_id));
  FERRITE_RETURN_IF_ERROR(GetBytes(message::Hello::kName, "the key", in.getKey(), hello.key));
  FERRITE_RETURN_IF_ERROR(GetBytes(message::Hello::kName, "the nonce", in.getNonce(), hello.nonce));
  return hello;
}

absl::StatusOr<Message> Read(stream::Welcome::Reader in) {
  message::Welcome welcome{.version = in.getVersion(), .features = in.getFeatures()};
  FERRITE_RETURN_IF_ERROR(GetBytes(message::Welcome::kName, "the key", in.getKey(), welcome.key));
  FERRITE_RETURN_IF_ERROR(GetBytes(message::Welcome::kName, "the nonce", in.getNonce(), welcome.nonce));
  return welcome;
}

absl::Status CheckRegion(size_t index, stream::Region::Reader region) {
  const auto wrong = [index](const auto&... words) {
    return absl::InvalidArgumentError(absl::StrCat(message::Machine::kName, ": memory region ", index, words...));
  };
  if (region.getKind() != stream::Region::Kind::RAM && region.getKind() != stream::Region::Kind::DISK) {
    return wrong(" is of a kind (", static_cast<uint16_t>(region.getKind()), ") that is not known");
  }
  const uint64_t page = region.getPageBytes();
  if (page < kPageBytes || !std::has_single_bit(page)) {
    return wrong(" has pages of ", page, " bytes: no power of two from ", kPageBytes, " on");
  }
  if (region.getBytes() == 0 || region.getBytes() % page != 0 || region.getBase() % page != 0) {
    return wrong(" has ", region.getBytes(), " bytes at ", region.getBase(), ": no whole pages of ", page, " bytes");
  }
  if (region.getBase() + region.getBytes() < region.getBase()) {
    return wrong(" has ", region.getBytes(), " bytes at ", region.getBase(), ": more than can be there");
  }
  return absl::OkStatus();
}

absl::StatusOr<Message> Read(stream::Machine::Reader in) {
  const capnp::Data::Reader opaque = in.getMachine();
  message::Machine machine{.spec = {.regions = {},
                                    .kind = Owned(in.getKind()),
                                    .version = in.getVersion(),
                                    .machine = {opaque.begin(), opaque.end()}}};
  FERRITE_RETURN_IF_ERROR(CheckCount(message::Machine::kName, in.getRegions().size(), "memory regions", kMaxRegions));
  for (const stream::Region::Reader region : in.getRegions()) {
    FERRITE_RETURN_IF_ERROR(CheckRegion(machine.spec.regions.size(), region));
    machine.spec.regions.push_back({.kind = static_cast<RegionKind>(region.getKind()),
                                    .name = Owned(region.getName()),
                                    .base = region.getBase(),
                                    .bytes = region.getBytes(),
                                    .page_bytes = region.getPageBytes()});
  }
  return WithDigest(std::move(machine), in);
}

absl::StatusOr<Message> Read(stream::Accept::Reader in) {
  message::Accept accept{.postcopy = in.getPostcopy(), .postcopy_reason = Owned(in.getPostcopyReason())};
  FERRITE_RETURN_IF_ERROR(
      CheckCount(message::Accept::kName, in.getHostPageBytes().size(), "memory regions", kMaxRegions));
  for (const uint64_t bytes : in.getHostPageBytes()) {
    accept.host_page_bytes.push_back(bytes);
  }
  return WithDigest(std::move(accept), in);
}

absl::StatusOr<Message> Read(stream::Discard::Reader in) {
  message::Discard discard{.last = in.getLast()};
  FERRITE_ASSIGN_OR_RETURN(discard.ranges, RangesOf(message::Discard::kName, in.getRanges()));
  return discard;
}

absl::StatusOr<Message> Read(stream::Missing::Reader in) {
  message::Missing missing{.last = in.getLast()};
  FERRITE_ASSIGN_OR_RETURN(missing.ranges, RangesOf(message::Missing::kName, in.getRanges()));
  return missing;
}

absl::StatusOr<Message> Read(stream::Broken::Reader in) {
  message::Broken broken{.channel = in.getChannel(), .missing = {}, .last = in.getLast()};
  FERRITE_ASSIGN_OR_RETURN(broken.missing, RangesOf(message::Broken::kName, in.getRanges()));
  return broken;
}

absl::StatusOr<Message> Read(stream::Package::Reader in) {
  const capnp::Data::Reader blob = in.getBlob();
  if (in.getLength() != blob.size() || in.getCrc32c() != Crc32c({blob.begin(), blob.size()})) {
    return absl::DataLossError(
        absl::StrCat("the package is damaged: ", blob.size(), " of ", in.getLength(), " bytes, or a wrong checksum"));
  }
  return message::Package{.version = in.getVersion(), .blob = {blob.begin(), blob.end()}, .postcopy = in.getPostcopy()};
}

absl::StatusOr<Message> Read(stream::Grant::Reader in) {
  message::Grant grant{.epoch = in.getEpoch()};
  FERRITE_RETURN_IF_ERROR(GetId(message::Grant::kName, in.getMoveId(), grant.move_id));
  return grant;
}

absl::StatusOr<Message> Read(stream::Shut::Reader in) {
  const stream::DestinationFigures::Reader figures = in.getFigures();
  message::Shut shut{.ok = in.getOk(),
                     .message = Owned(in.getMessage()),
                     .figures = {.faults = figures.getFaults(),
                                 .minor_faults = figures.getMinorFaults(),
                                 .duplicate_pages = figures.getDuplicatePages(),
                                 .waiting = {},
                                 .host_wait = DurationOf(figures.getHostWait()),
                                 .entry_wait = DurationOf(figures.getEntryWait())}};
  const auto waiting = figures.getWaiting();
  for (uint32_t i = 0; i < std::min<size_t>(waiting.size(), kMaxWaits); ++i) {
    shut.figures.waiting.push_back({.vcpu = waiting[i].getVcpu(),
                                    .count = waiting[i].getCount(),
                                    .p50 = DurationOf(waiting[i].getP50()),
                                    .p99 = DurationOf(waiting[i].getP99()),
                                    .max = DurationOf(waiting[i].getMax()),
                                    .sum = DurationOf(waiting[i].getSum())});
  }
  return shut;
}

absl::StatusOr<Message> Read(stream::Recover::Reader in) {
  message::Recover recover{
      .epoch = in.getEpoch(), .page_channels = in.getPageChannels(), .urgent_channels = in.getUrgentChannels()};
  FERRITE_RETURN_IF_ERROR(GetId(message::Recover::kName, in.getMoveId(), recover.move_id));
  return recover;
}

absl::StatusOr<Message> Read(stream::Control::Reader in) {
  switch (in.which()) {
    case stream::Control::INVALID:
      break;
    case stream::Control::HELLO:
      return Read(in.getHello());
    case stream::Control::WELCOME:
      return Read(in.getWelcome());
    case stream::Control::MACHINE:
      return Read(in.getMachine());
    case stream::Control::ACCEPT:
      return Read(in.getAccept());
    case stream::Control::REFUSE:
      return message::Refuse{.reason = Owned(in.getRefuse().getReason())};
    case stream::Control::ADVISE:
      return message::Advise{};
    case stream::Control::READY:
      return message::Ready{.load = DurationOf(in.getReady().getLoadNanoseconds())};
    case stream::Control::ROUND:
      return message::Round{.number = in.getRound().getNumber(), .last = in.getRound().getLast()};
    case stream::Control::DISCARD:
      return Read(in.getDiscard());
    case stream::Control::PACKAGE:
      return Read(in.getPackage());
    case stream::Control::LOADED:
      return message::Loaded{.load = DurationOf(in.getLoaded().getLoadNanoseconds())};
    case stream::Control::GRANT:
      return Read(in.getGrant());
    case stream::Control::RUNNING:
      return message::Running{.epoch = in.getRunning().getEpoch()};
    case stream::Control::END:
      return message::End{};
    case stream::Control::SHUT:
      return Read(in.getShut());
    case stream::Control::PING:
      return message::Ping{.token = in.getPing().getToken()};
    case stream::Control::PONG:
      return message::Pong{.token = in.getPong().getToken()};
    case stream::Control::ERROR:
      return message::Error{.message = Owned(in.getError().getMessage())};
    case stream::Control::CANCEL:
      return message::Cancel{.message = Owned(in.getCancel().getMessage())};
    case stream::Control::DISCARDED:
      return message::Discarded{};
    case stream::Control::HEARD:
      return message::Heard{};
    case stream::Control::RECOVER:
      return Read(in.getRecover());
    case stream::Control::STANDING:
      return WithDigest(message::Standing{.granted = in.getStanding().getGranted()}, in.getStanding());
    case stream::Control::REVOKE:
      return message::Revoke{};
    case stream::Control::REVOKED:
      return message::Revoked{};
    case stream::Control::MISSING:
      return Read(in.getMissing());
    case stream::Control::OPENED:
      return WithDigest(message::Opened{}, in.getOpened());
    case stream::Control::BROKEN:
      return Read(in.getBroken());
  }
  return absl::InvalidArgumentError(
      absl::StrCat("control frame: an unknown message (", static_cast<uint16_t>(in.which()), ")"));
}

}  // namespace

absl::string_view MessageName(const Message& message) {
  return std::visit([](const auto& one) { return one.kName; }, message);
}

std::vector<uint8_t> Encode(const Message& message) {
  capnp::MallocMessageBuilder built;
  std::visit(Writer(built.initRoot<stream::Control>()), message);
  const size_t bytes = capnp::computeSerializedSizeInWords(built) * sizeof(capnp::word);
  std::vector<uint8_t> frame(kControlHeaderBytes + bytes);
  kj::ArrayOutputStream payload(kj::arrayPtr(frame.data() + kControlHeaderBytes, bytes));
  capnp::writeMessage(payload, built);
  SealControlFrame(frame);
  return frame;
}

absl::StatusOr<Message> Decode(std::span<const uint64_t> payload) {
  Message message;
  FERRITE_RETURN_IF_ERROR(Guard([&]() -> absl::Status {
    const kj::ArrayPtr<const capnp::word> words(reinterpret_cast<const capnp::word*>(payload.data()), payload.size());
    capnp::FlatArrayMessageReader reader(words, Limits(payload.size()));
    FERRITE_ASSIGN_OR_RETURN(message, Read(reader.getRoot<stream::Control>()));
    return absl::OkStatus();
  }));
  return message;
}

}  // namespace ferrite::migration
