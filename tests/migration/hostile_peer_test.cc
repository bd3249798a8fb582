// Peers that lie, stop, or speak another language (R11), and what the honest side does: it ends with a clear word, and
// the guest runs on (R3).
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "migration/api/move_options.h"
#include "migration/channel/socket.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "migration/sending/page_source.h"
#include "migration/session/destination.h"
#include "migration/session/source.h"
#include "tests/fakes/accepting.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

using Fill = std::function<void(stream::Control::Builder)>;

constexpr MoveId kId = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

// What the encoder cannot say.
absl::Status SendRaw(Stream& stream, const Fill& fill) {
  capnp::MallocMessageBuilder message;
  fill(message.initRoot<stream::Control>());
  return stream.WriteAll(EncodeControl(message));
}

class Sockets {
 public:
  Sockets() {
    char name[] = "/tmp/ferrite-peer-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    auto cancel = EventFd::Create();
    EXPECT_TRUE(cancel.ok());
    cancel_ = std::make_unique<EventFd>(*std::move(cancel));
    auto listener = Listener::Create({.kind = Address::Kind::kUnix, .path = absl::StrCat(directory_, "/s")});
    EXPECT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  ~Sockets() {
    listener_.reset();
    rmdir(directory_.c_str());
  }

  Listener& listener() { return *listener_; }
  std::unique_ptr<Stream> Dial(ChannelRole role, uint16_t index = 0) {
    auto stream = Connect(listener_->address(), absl::Seconds(5), *cancel_);
    EXPECT_TRUE(stream.ok()) << stream.status();
    const Preamble preamble{.lowest_version = 1, .version = 1, .role = role, .index = index, .move_id = kId};
    EXPECT_TRUE((*stream)->WriteAll(EncodePreamble(preamble)).ok());
    return *std::move(stream);
  }
  std::unique_ptr<Stream> Accept() {
    auto stream = migration::Accept(*listener_, *cancel_);
    return stream.ok() ? *std::move(stream) : nullptr;
  }
  void Cancel() { cancel_->Signal(); }

 private:
  std::string directory_;
  std::unique_ptr<EventFd> cancel_;
  std::unique_ptr<Listener> listener_;
};

// --- A hostile source ---

constexpr uint64_t kBytes = 4 << 20;

void SendHello(Stream& control, uint64_t features = 0) {
  EXPECT_TRUE(
      SendControl(
          control,
          message::Hello{
              .move_id = kId, .versions = kOurVersions, .features = features, .page_channels = 1, .urgent_channels = 1})
          .ok());
}

void SayMachine(Stream& control) {
  (void)SendControl(control, message::Machine{.spec = {.regions = {{.bytes = kBytes, .page_bytes = 4096}}}});
}

// Speaks the protocol up to READY; what comes then is the test's.
class HostileSource {
 public:
  explicit HostileSource(Sockets& sockets, uint64_t features = 0) : control(sockets.Dial(ChannelRole::kControl)) {
    SendHello(*control, features);
    EXPECT_TRUE(ReadControl(*control).ok());
    SayMachine(*control);
    EXPECT_TRUE(ReadControl(*control).ok());
    page = sockets.Dial(ChannelRole::kPage);
    urgent = sockets.Dial(ChannelRole::kUrgent);
    EXPECT_TRUE(SendControl(*control, message::Advise{}).ok());
    EXPECT_TRUE(ReadControl(*control).ok());
  }

  void SendPages(const PageHeader& header, size_t bytes) {
    (void)page->WriteAll(EncodePageHeader(header));
    (void)page->WriteAll(std::vector<uint8_t>(bytes, 0x5a));
  }
  void SendRound(uint32_t number, bool last) {
    (void)page->WriteAll(EncodePageHeader({.type = PageFrameType::kRound, .count = number}));
    (void)SendControl(*control, message::Round{.number = number, .last = last});
  }
  void SendGrant(uint64_t epoch) { (void)SendControl(*control, message::Grant{.move_id = kId, .epoch = epoch}); }
  void SendPackage(const std::vector<uint8_t>& blob, uint64_t length, uint32_t crc, bool postcopy) {
    (void)SendRaw(*control, [&](stream::Control::Builder out) {
      auto package = out.initPackage();
      package.setVersion(1);
      package.setLength(length);
      package.setCrc32c(crc);
      package.setBlob(kj::arrayPtr(blob.data(), blob.size()));
      package.setPostcopy(postcopy);
    });
  }

  std::unique_ptr<Stream> control;
  std::unique_ptr<Stream> page;
  std::unique_ptr<Stream> urgent;
};

struct Attack {
  const char* name;
  std::function<void(HostileSource&)> run;
  const char* words;  // of the destination's answer
};

class HostileSourceTest : public testing::TestWithParam<Attack> {};

TEST_P(HostileSourceTest, EndsTheMoveWithAClearWord) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Seconds(1)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  {
    HostileSource source(sockets);
    GetParam().run(source);
    // Until the destination has closed.
    ReadToTheEnd(*source.control);
  }
  receiver.Join();
  EXPECT_FALSE(result.ok());
  EXPECT_NE(result.message().find(GetParam().words), absl::string_view::npos) << result;
  EXPECT_EQ((*session)->state(), MoveState::kFailed);
  EXPECT_TRUE(there.guest() == nullptr || !there.guest()->running()) << "R2";
  EXPECT_EQ(there.inhibited, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileSourceTest,
    testing::Values(
        Attack{"RubbishOnPages", [](HostileSource& s) { (void)s.page->WriteAll(std::vector<uint8_t>(4096, 0xee)); },
               "checksum"},
        Attack{"RubbishOnControl",
               [](HostileSource& s) { (void)s.control->WriteAll(std::vector<uint8_t>(4096, 0xee)); },
               "does not speak ferrite"},
        Attack{"ControlFrameOf4Gib", [](HostileSource& s) { (void)s.control->WriteAll(ControlHeaderOf(0xffff'fff8)); },
               "are allowed"},
        Attack{"ControlClosesInTheMiddleOfAFrame",
               [](HostileSource& s) {
                 (void)s.control->WriteAll(ControlHeaderOf(4096));
                 s.control->Shutdown();
               },
               // Or what the page channel, which ends with it, says first.
               "closed the connection"},
        Attack{"PagesOutside", [](HostileSource& s) { s.SendPages({.first_page = kBytes / 4096, .count = 1}, 4096); },
               "outside"},
        Attack{"PagesFarOutside", [](HostileSource& s) { s.SendPages({.first_page = ~uint64_t{0}, .count = 2}, 8192); },
               "outside"},
        Attack{"PagesOverTheEnd",
               [](HostileSource& s) { s.SendPages({.first_page = kBytes / 4096 - 1, .count = 2}, 8192); }, "outside"},
        Attack{"NoSuchRegion", [](HostileSource& s) { s.SendPages({.region = 7, .first_page = 0, .count = 1}, 4096); },
               "no region 7"},
        Attack{"RequestFromTheSource",
               [](HostileSource& s) { s.SendPages({.type = PageFrameType::kRequest, .count = 1}, 0); }, "request"},
        Attack{"StopsInTheMiddleOfAFrame",
               [](HostileSource& s) {
                 s.SendPages({.first_page = 0, .count = 1}, 100);
                 for (int i = 0; i < 30; ++i) {  // alive, but stuck
                   (void)SendControl(*s.control, message::Ping{});
                   absl::SleepFor(absl::Milliseconds(100));
                 }
               },
               "in the middle of a frame"},
        Attack{"StopsBehindAHead",
               [](HostileSource& s) {
                 s.SendPages({.first_page = 0, .count = 1}, 0);
                 for (int i = 0; i < 30; ++i) {
                   (void)SendControl(*s.control, message::Ping{});
                   absl::SleepFor(absl::Milliseconds(100));
                 }
                 // One that is waited for says so at the end.
                 (void)SendControl(*s.control, message::Error{.message = "late"});
               },
               "in the middle of a frame"},
        Attack{"Silence", [](HostileSource&) {}, "silent"},
        Attack{"ClosesInTheMiddleOfAFrame",
               [](HostileSource& s) {
                 s.SendPages({.first_page = 0, .count = 1}, 100);
                 s.page.reset();
               },
               "closed the connection in the middle"},
        Attack{"RoundsOutOfOrder", [](HostileSource& s) { s.SendRound(5, false); }, "where"},
        Attack{"DiscardOutside",
               [](HostileSource& s) {
                 (void)SendControl(*s.control, message::Discard{.ranges = {{.first = 1000, .count = ~uint64_t{0}}}});
               },
               "DISCARD"},
        Attack{"DiscardsOfMoreThanThereIs",
               [](HostileSource& s) {
                 (void)SendControl(*s.control, message::Discard{.ranges = {{.count = kBytes / 4096}, {.count = 1}}});
               },
               "DISCARD: more pages than there are"},
        Attack{"TooManyDiscards",
               [](HostileSource& s) {
                 (void)SendControl(*s.control, message::Discard{.ranges = std::vector<PageRange>(kMaxRanges + 1)});
               },
               "DISCARD: 4097 ranges, at most 4096"},
        Attack{"PackageTooEarly",
               [](HostileSource& s) {
                 s.SendPackage({1, 2, 3}, 3, Crc32c(std::array<uint8_t, 3>{1, 2, 3}), false);
               },
               "PACKAGE came before"},
        Attack{"PackageOf2To63Bytes",
               [](HostileSource& s) {
                 s.SendRound(1, true);
                 s.SendPackage({1, 2, 3}, uint64_t{1} << 63, 0, false);
               },
               "damaged"},
        Attack{"PackageWithAWrongChecksum",
               [](HostileSource& s) {
                 s.SendRound(1, true);
                 s.SendPackage({1, 2, 3}, 3, 12345, false);
               },
               "damaged"},
        Attack{"PagesNeverSent",
               [](HostileSource& s) {
                 s.SendRound(1, true);
                 std::vector<uint8_t> blob(1000);
                 s.SendPackage(blob, blob.size(), Crc32c(blob), false);
               },
               "fake guest"},
        Attack{"GrantTooEarly", [](HostileSource& s) { s.SendGrant(0); }, "GRANT came before"},
        Attack{"MessagesThatNobodyWaitsFor",
               [](HostileSource& s) {
                 for (int i = 0; i < 10'000; ++i) {
                   if (!SendControl(*s.control, message::Welcome{}).ok()) {
                     break;
                   }
                 }
               },
               "the source sent"}),
    [](const testing::TestParamInfo<Attack>& info) { return info.param.name; });

TEST(StrangersTest, AreDroppedAndTheRealSourceIsStillServed) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Seconds(5)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  {
    // One that speaks HTTP, one that leaves at once, one of another version, one of no move, one with a bad HELLO.
    auto http = Connect(sockets.listener().address(), absl::Seconds(5), *cancel);
    const absl::string_view request = "GET / HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n";
    ASSERT_TRUE((*http)->WriteAll({reinterpret_cast<const uint8_t*>(request.data()), request.size()}).ok());
    (void)*Connect(sockets.listener().address(), absl::Seconds(5), *cancel);
    auto newer = Connect(sockets.listener().address(), absl::Seconds(5), *cancel);
    ASSERT_TRUE((*newer)->WriteAll(EncodePreamble({.lowest_version = 9, .version = 9})).ok());
    const auto page = sockets.Dial(ChannelRole::kPage);
    const auto hello = sockets.Dial(ChannelRole::kControl);
    ASSERT_TRUE(SendRaw(*hello, [](stream::Control::Builder out) { out.initHello().setVersion(1); }).ok());
    ReadToTheEnd(*hello);
  }
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.pages = 100});
  guest.Run();
  FakeSourcePort port(**memory, guest);
  auto source = Source::Create(AnyHost(), port, {}, nullptr);
  const absl::Status moved = (*source)->Run(sockets.listener().address());
  EXPECT_TRUE(moved.ok()) << moved;
  receiver.Join();
  EXPECT_TRUE(result.ok()) << result;
  there.guest()->Pause();
  EXPECT_EQ(there.guest()->CheckAll(), 0u);
}

void SendRecover(Stream& control, uint64_t epoch, uint16_t page_channels) {
  (void)SendControl(
      control, message::Recover{.move_id = kId, .epoch = epoch, .page_channels = page_channels, .urgent_channels = 1});
}

// R4: who wants to go on with a move has to be its source, and hears exactly what is missing.
TEST(HostileRecoveryTest, StrangersAreDroppedAndWhatIsMissingIsTold) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Seconds(2)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  // It stays within what is sent.
  FakeGuest guest(**memory, {.first_page = 100, .pages = 20});
  const std::vector<uint8_t> blob = guest.Save();
  {
    HostileSource source(sockets, kFeaturePostcopy | kFeatureRecovery);
    (void)source.page->WriteAll(EncodePageHeader({.type = PageFrameType::kZero, .first_page = 100, .count = 20}));
    source.SendRound(1, true);
    source.SendPackage(blob, blob.size(), Crc32c(blob), true);
    const auto loaded = ReadControl(*source.control);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    ASSERT_EQ(MessageName(*loaded), "LOADED");
    source.SendGrant(3);
    const auto running = ReadControl(*source.control);
    ASSERT_TRUE(running.ok()) << running.status();
    ASSERT_EQ(MessageName(*running), "RUNNING");
  }
  {
    // Rubbish, a channel of the move that is gone, another epoch, no channels, a second HELLO.
    auto cancel = EventFd::Create();
    ASSERT_TRUE(cancel.ok());
    auto rubbish = Connect(sockets.listener().address(), absl::Seconds(5), *cancel);
    (void)(*rubbish)->WriteAll(std::vector<uint8_t>(64, 7));
    const auto page = sockets.Dial(ChannelRole::kPage);
    for (const auto& [epoch, channels] : {std::pair<uint64_t, uint16_t>{4, 1}, {3, 0}, {3, 17}}) {
      const auto control = sockets.Dial(ChannelRole::kControl);
      SendRecover(*control, epoch, channels);
      EXPECT_FALSE(ReadControl(*control).ok()) << "epoch " << epoch << ", " << channels << " channels";
    }
    const auto hello = sockets.Dial(ChannelRole::kControl);
    (void)SendRaw(*hello, [](stream::Control::Builder out) { out.initHello().setVersion(1); });
    EXPECT_FALSE(ReadControl(*hello).ok());
  }
  const auto control = sockets.Dial(ChannelRole::kControl);
  SendRecover(*control, 3, 1);
  const auto standing = ReadControl(*control);
  ASSERT_TRUE(standing.ok()) << standing.status();
  ASSERT_EQ(MessageName(*standing), "STANDING");
  const auto missing = ReadControl(*control);
  ASSERT_TRUE(missing.ok()) << missing.status();
  ASSERT_EQ(MessageName(*missing), "MISSING");
  EXPECT_EQ(std::get<message::Missing>(*missing),
            (message::Missing{.ranges = {{.first = 0, .count = 100}, {.first = 120, .count = kBytes / 4096 - 120}},
                              .last = true}));
  (*session)->Leave();
  // It was not waiting: the loss of this connection is what it hears of next.
  control->Shutdown();
  receiver.Join();
  EXPECT_FALSE(result.ok());
  EXPECT_EQ((*session)->state(), MoveState::kPostcopyPaused);
  there.guest()->Pause();
  EXPECT_EQ(there.guest()->errors(), 0u) << "R1";
}

// R4: a source that ends although pages are missing is asked for them again: nobody waits for ever without a word.
TEST(HostileRecoveryTest, PagesThatNeverCameAreAskedForAgain) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Milliseconds(300)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.first_page = 100, .pages = 20});
  const std::vector<uint8_t> blob = guest.Save();
  {
    HostileSource source(sockets, kFeaturePostcopy | kFeatureRecovery);
    (void)source.page->WriteAll(EncodePageHeader({.type = PageFrameType::kZero, .first_page = 100, .count = 20}));
    source.SendRound(1, true);
    source.SendPackage(blob, blob.size(), Crc32c(blob), true);
    ASSERT_EQ(MessageName(*ReadControl(*source.control)), "LOADED");
    source.SendGrant(1);
    ASSERT_EQ(MessageName(*ReadControl(*source.control)), "RUNNING");
    (void)source.page->WriteAll(EncodePageHeader({.type = PageFrameType::kRound, .count = kLastRound}));
    (void)SendControl(*source.control, message::End{});
    // It lives, and says nothing more, until the destination has had enough.
    while (SendControl(*source.control, message::Ping{}).ok()) {
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
  const auto control = sockets.Dial(ChannelRole::kControl);
  SendRecover(*control, 1, 1);
  ASSERT_EQ(MessageName(*ReadControl(*control)), "STANDING");
  EXPECT_EQ(MessageName(*ReadControl(*control)), "MISSING");
  (*session)->Leave();
  control->Shutdown();
  receiver.Join();
  EXPECT_EQ((*session)->state(), MoveState::kPostcopyPaused);
  there.guest()->Pause();
}

// R11: a source whose guest runs here, and which lives and sends nothing that ends the move, does not keep this side
// when it is to end. That has its patience: a move that goes well is not broken off.
class SourceWithoutAnEndTest : public testing::Test {
 protected:
  SourceWithoutAnEndTest() {
    auto session = Destination::Create(AnyHost(), there_, {.silence = absl::Seconds(60)});
    EXPECT_TRUE(session.ok());
    session_ = *std::move(session);
    receiver_ = StartOrDie("receiver", [this] { result_ = session_->Run(sockets_.listener()); });
    auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
    EXPECT_TRUE(memory.ok());
    const FakeGuest guest(**memory, {.first_page = 100, .pages = 20});
    const std::vector<uint8_t> blob = guest.Save();
    source_ = std::make_unique<HostileSource>(sockets_, kFeaturePostcopy | kFeatureRecovery);
    SendZero(100, 20);
    source_->SendRound(1, true);
    source_->SendPackage(blob, blob.size(), Crc32c(blob), true);
    EXPECT_EQ(MessageName(*ReadControl(*source_->control)), "LOADED");
    source_->SendGrant(1);
    EXPECT_EQ(MessageName(*ReadControl(*source_->control)), "RUNNING");
    // It has touched what it works on, so that it can be paused when nobody serves its faults any more.
    for (const uint64_t before = there_.guest()->steps(); there_.guest()->steps() < before + 200;) {
      sched_yield();
    }
  }
  ~SourceWithoutAnEndTest() override {
    there_.guest()->Pause();
    EXPECT_EQ(there_.guest()->errors(), 0u) << "R1";
  }

  void SendZero(uint64_t first, uint32_t count) {
    EXPECT_TRUE(
        source_->page->WriteAll(EncodePageHeader({.type = PageFrameType::kZero, .first_page = first, .count = count}))
            .ok());
  }
  void Leave() {
    std::atomic<bool> over = false;
    const Thread lives = StartOrDie("lives", [&] {
      while (!over && SendControl(*source_->control, message::Ping{}).ok()) {
        absl::SleepFor(absl::Milliseconds(100));
      }
    });
    const MonotonicTime start = MonotonicTime::Now();
    session_->Leave();
    receiver_.Join();
    over = true;
    EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(40));
  }

  Sockets sockets_;
  FakeDestination there_{MemoryBacking::kMemfd};
  std::unique_ptr<Destination> session_;
  absl::Status result_;
  Thread receiver_;
  std::unique_ptr<HostileSource> source_;
};

TEST_F(SourceWithoutAnEndTest, SendsNoPage) {
  Leave();
  EXPECT_TRUE(absl::IsCancelled(result_)) << result_;
  EXPECT_NE(result_.message().find("this side is to end, and 1004 host pages"), absl::string_view::npos) << result_;
  EXPECT_EQ(session_->state(), MoveState::kPostcopyPaused);
}

TEST_F(SourceWithoutAnEndTest, SendsAllPagesAndNotTheirEnd) {
  // The beginning of a frame over the urgent channel, too.
  EXPECT_TRUE(source_->urgent->WriteAll(EncodePageHeader({.first_page = 100, .count = 20})).ok());
  SendZero(0, 100);
  SendZero(120, kBytes / 4096 - 120);
  Leave();
  EXPECT_TRUE(result_.ok()) << result_;
  EXPECT_EQ(session_->state(), MoveState::kCompleted);
}

TEST_F(SourceWithoutAnEndTest, BeginsAnotherRound) {
  EXPECT_TRUE(source_->page->WriteAll(EncodePageHeader({.type = PageFrameType::kRound, .count = 2})).ok());
  Leave();
  EXPECT_NE(result_.message().find("another round in post-copy"), absl::string_view::npos) << result_;
  EXPECT_EQ(session_->state(), MoveState::kPostcopyPaused);
}

// R9: a page that the hardware lost ends whoever touches it, as long as nobody makes a machine check of that.
TEST_F(SourceWithoutAnEndTest, SendsPoison) {
  EXPECT_TRUE(
      source_->page->WriteAll(EncodePageHeader({.type = PageFrameType::kPoison, .first_page = 0, .count = 8})).ok());
  Leave();
  EXPECT_NE(result_.message().find("poisoned pages are not supported"), absl::string_view::npos) << result_;
  EXPECT_EQ(session_->state(), MoveState::kPostcopyPaused);
}

// R2: GRANT may be on its way when the destination is told to end. It says that the guest never runs there, so that the
// source can go on with it.
TEST(CancelledDestinationTest, RefusesOnceTheStateIsLoaded) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Seconds(10)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.first_page = 100, .pages = 20});
  const std::vector<uint8_t> blob = guest.Save();
  HostileSource source(sockets, kFeaturePostcopy | kFeatureRecovery);
  source.SendRound(1, true);
  source.SendPackage(blob, blob.size(), Crc32c(blob), true);
  ASSERT_EQ(MessageName(*ReadControl(*source.control)), "LOADED");
  EXPECT_TRUE((*session)->Cancel().ok());
  source.SendGrant(1);
  const auto word = ReadControl(*source.control);
  ASSERT_TRUE(word.ok()) << word.status();
  EXPECT_EQ(MessageName(*word), "REFUSE");
  receiver.Join();
  EXPECT_EQ((*session)->state(), MoveState::kCancelled);
  EXPECT_FALSE(there.guest()->running()) << "R2";
}

// R3: a source that gives up closes its page channels, sees to its guest, for as long as that takes, and says why then.
class SourceThatGivesUpTest : public testing::Test {
 protected:
  SourceThatGivesUpTest() {
    auto session = Destination::Create(AnyHost(), there_, {.silence = absl::Seconds(60)});
    EXPECT_TRUE(session.ok());
    session_ = *std::move(session);
    receiver_ = StartOrDie("receiver", [this] { result_ = session_->Run(sockets_.listener()); });
    source_ = std::make_unique<HostileSource>(sockets_, kFeaturePostcopy | kFeatureRecovery);
    source_->page->Shutdown();
    source_->urgent->Shutdown();
    // Longer than a word takes that is on its way.
    EXPECT_FALSE(AwaitReadable(*source_->control, absl::Milliseconds(600)));
  }

  Sockets sockets_;
  FakeDestination there_{MemoryBacking::kMemfd};
  std::unique_ptr<Destination> session_;
  absl::Status result_;
  Thread receiver_;
  std::unique_ptr<HostileSource> source_;
};

TEST_F(SourceThatGivesUpTest, IsHeard) {
  (void)SendControl(*source_->control, message::Cancel{.message = "cancelled"});
  receiver_.Join();
  EXPECT_EQ(result_, absl::CancelledError("the source says: cancelled"));
  EXPECT_EQ(session_->state(), MoveState::kFailed);
}

TEST_F(SourceThatGivesUpTest, IsNotWaitedForWhenThisSideIsToEnd) {
  const MonotonicTime start = MonotonicTime::Now();
  EXPECT_TRUE(session_->Cancel().ok());
  receiver_.Join();
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(30));
  EXPECT_NE(result_.message().find("closed the connection"), absl::string_view::npos) << result_;
  EXPECT_EQ(session_->state(), MoveState::kCancelled);
}

// Empty when another message comes, or none.
std::string ErrorFrom(Stream& stream) {
  std::string words;
  const auto answer = ReadControl(stream);
  if (answer.ok() && std::holds_alternative<message::Error>(*answer)) {
    words = std::get<message::Error>(*answer).message;
  }
  return words;
}

TEST(OldVersionTest, IsToldWhyItIsDropped) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Seconds(5)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  const auto old = sockets.Dial(ChannelRole::kControl);
  (void)SendControl(*old, message::Hello{.move_id = kId, .page_channels = 1, .urgent_channels = 1});
  EXPECT_NE(ErrorFrom(*old).find("version"), std::string::npos);
  // One that says so where a source of ours does: in the preamble.
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  const auto newer = Connect(sockets.listener().address(), absl::Seconds(5), *cancel);
  ASSERT_TRUE(newer.ok());
  ASSERT_TRUE((*newer)->WriteAll(EncodePreamble({.lowest_version = 9, .version = 9})).ok());
  EXPECT_NE(ErrorFrom(**newer).find("version"), std::string::npos);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// R1, R6: the first one counts, also when the second is another one.
TEST(PagesTwiceTest, ArePlacedOnce) {
  constexpr uint64_t kFirst = 100;
  constexpr uint32_t kWork = 20;
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Seconds(10)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  const FakeGuest guest(**memory, {.first_page = kFirst, .pages = kWork});
  const std::vector<uint8_t> blob = guest.Save();
  uint64_t duplicates = 0;
  bool shut = false;
  {
    HostileSource source(sockets, kFeaturePostcopy);
    source.SendRound(1, true);
    source.SendPackage(blob, blob.size(), Crc32c(blob), true);
    EXPECT_TRUE(ReadControl(*source.control).ok());  // LOADED
    source.SendGrant(1);
    EXPECT_TRUE(ReadControl(*source.control).ok());  // RUNNING
    const PageHeader work{.first_page = kFirst, .count = kWork};
    (void)source.page->WriteAll(EncodePageHeader(work));
    (void)source.page->WriteAll(std::vector<uint8_t>(kWork * 4096));
    source.SendPages(work, kWork * 4096);
    for (int i = 0; i < 2; ++i) {
      (void)source.page->WriteAll(EncodePageHeader({.type = PageFrameType::kZero, .first_page = 0, .count = kFirst}));
    }
    source.SendPages({.first_page = 0, .count = kFirst}, kFirst * 4096);
    (void)source.page->WriteAll(EncodePageHeader({.type = PageFrameType::kZero,
                                                  .first_page = kFirst + kWork,
                                                  .count = static_cast<uint32_t>(kBytes / 4096 - kFirst - kWork)}));
    (void)source.page->WriteAll(EncodePageHeader({.type = PageFrameType::kRound, .count = kLastRound}));
    (void)SendControl(*source.control, message::End{});
    const auto answer = ReadControl(*source.control);
    ASSERT_TRUE(answer.ok()) << answer.status();
    ASSERT_EQ(MessageName(*answer), "SHUT");
    shut = std::get<message::Shut>(*answer).ok;
    duplicates = std::get<message::Shut>(*answer).figures.duplicate_pages;
  }
  receiver.Join();
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_TRUE(shut);
  EXPECT_EQ(duplicates, kWork + 2 * kFirst);
  there.guest()->Pause();
  EXPECT_EQ(there.guest()->errors(), 0u);
  EXPECT_EQ(there.guest()->CheckAll(), 0u);
}

// A source that sends more pages than it should: the guest's memory is the guest's (R1, R11).
class LateFrameTest : public testing::TestWithParam<bool> {};

TEST_P(LateFrameTest, DoesNotTouchTheGuest) {
  const bool postcopy = GetParam();
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session =
      Destination::Create(AnyHost(), there, {.silence = absl::Seconds(1), .hold_for = absl::Milliseconds(100)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.first_page = 100, .pages = 20});
  const std::vector<uint8_t> blob = guest.Save();
  {
    HostileSource source(sockets, kFeaturePostcopy | kFeatureRecovery);
    const PageHeader all{.type = PageFrameType::kZero, .first_page = 0, .count = kBytes / 4096};
    (void)source.page->WriteAll(EncodePageHeader(all));
    source.SendRound(1, true);
    source.SendPackage(blob, blob.size(), Crc32c(blob), postcopy);
    ASSERT_EQ(MessageName(*ReadControl(*source.control)), "LOADED");
    source.SendGrant(3);
    ASSERT_EQ(MessageName(*ReadControl(*source.control)), "RUNNING");
    source.SendPages({.first_page = 100, .count = 20}, size_t{20} * 4096);
    (void)source.page->WriteAll(EncodePageHeader(all));
    (void)source.page->WriteAll(EncodePageHeader({.type = PageFrameType::kRound, .count = kLastRound}));
    const auto shut = ReadControl(*source.control);
    ASSERT_TRUE(shut.ok()) << shut.status();
    EXPECT_EQ(MessageName(*shut), "SHUT");
    source.SendPages({.first_page = 100, .count = 20}, size_t{20} * 4096);
    (void)source.page->WriteAll(EncodePageHeader(all));
    (void)SendControl(*source.control, message::Heard{});
    // Until it is over there.
    receiver.Join();
  }
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_TRUE(there.thp_allowed);
  there.guest()->Pause();
  EXPECT_EQ(there.guest()->errors(), 0u) << "R1";
  EXPECT_EQ(there.guest()->CheckAll(), 0u) << "R1";
}

INSTANTIATE_TEST_SUITE_P(Modes, LateFrameTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) { return info.param ? "Postcopy" : "Precopy"; });

// A stranger that keeps a connection alive and says nothing does not keep the source out for ever.
TEST(StrangersTest, OneThatOnlyAnswersPingIsDropped) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.patience = absl::Milliseconds(400)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  const auto stranger = sockets.Dial(ChannelRole::kControl);
  int pings = 0;
  // Until it is dropped.
  while (true) {
    std::array<uint8_t, kControlHeaderBytes> head;
    if (!stranger->ReadAll(head).ok()) {
      break;
    }
    std::vector<uint8_t> payload(DecodeControlHeader(head)->length);
    if (!stranger->ReadAll(payload).ok() || !SendControl(*stranger, message::Pong{}).ok()) {
      break;
    }
    ++pings;
  }
  EXPECT_GT(pings, 0);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// Slow is not hostile: an overloaded source is still the one that is waited for. Each of its steps takes longer than
// one of a stranger may that says nothing (here a stranger is dropped meanwhile), and there is no other limit.
TEST(SlowSourceTest, IsWaitedForWhileStrangersComeAndGo) {
  constexpr absl::Duration kSlow = absl::Milliseconds(150);
  constexpr int kStrangers = 7;  // with the source they are as many as are greeted at a time
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session =
      Destination::Create(AnyHost(), there, {.silence = absl::Milliseconds(100), .patience = absl::Seconds(20)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  const auto control = sockets.Dial(ChannelRole::kControl);
  std::vector<std::unique_ptr<Stream>> strangers;
  for (int i = 0; i < kStrangers; ++i) {
    strangers.push_back(sockets.Dial(ChannelRole::kControl));
  }
  absl::SleepFor(kSlow);
  SendHello(*control);
  auto word = ReadControl(*control);
  ASSERT_TRUE(word.ok()) << word.status();
  EXPECT_EQ(MessageName(*word), "WELCOME");
  absl::SleepFor(kSlow);
  SayMachine(*control);
  word = ReadControl(*control);
  ASSERT_TRUE(word.ok()) << word.status();
  EXPECT_EQ(MessageName(*word), "ACCEPT");
  for (const auto& stranger : strangers) {
    // The others know at once that they need not wait.
    EXPECT_NE(ErrorFrom(*stranger).find("busy with another move"), std::string::npos);
  }
  absl::SleepFor(kSlow);
  const auto page = sockets.Dial(ChannelRole::kPage);
  absl::SleepFor(kSlow);
  const auto urgent = sockets.Dial(ChannelRole::kUrgent);
  absl::SleepFor(kSlow);
  (void)SendControl(*control, message::Advise{});
  word = ReadControl(*control);
  ASSERT_TRUE(word.ok()) << word.status();
  EXPECT_EQ(MessageName(*word), "READY");
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// R11: strangers that are greeted are few at a time, each for a limited time, and nobody waits behind them.
TEST(StrangersTest, TooManyThatWaitToBeGreetedLoseTheirPlace) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  std::vector<std::unique_ptr<Stream>> strangers;
  for (int i = 0; i < 12; ++i) {
    strangers.push_back(sockets.Dial(ChannelRole::kControl));
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_NE(ErrorFrom(*strangers[static_cast<size_t>(i)]).find("too many others"), std::string::npos) << i;
  }
  const HostileSource source(sockets);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// R11: who was welcomed and ends its move has ended nobody else's, nor the wait for a source.
TEST(StrangersTest, OneThatIsWelcomedAndGoesIsDropped) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  for (const bool cancels : {false, true}) {
    const auto stranger = sockets.Dial(ChannelRole::kControl);
    SendHello(*stranger);
    auto word = ReadControl(*stranger);
    ASSERT_TRUE(word.ok()) << word.status();
    EXPECT_EQ(MessageName(*word), "WELCOME");
    (void)SendControl(*stranger, cancels ? Message(message::Cancel{.message = "no more"})
                                         : Message(message::Error{.message = "no more"}));
    ReadToTheEnd(*stranger);
  }
  const HostileSource source(sockets);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// R11: nor does who was welcomed and says nothing more.
TEST(StrangersTest, ThirtyThatSayHelloAndNothingElseKeepNobodyOut) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  std::vector<std::unique_ptr<Stream>> strangers;
  for (int i = 0; i < 30; ++i) {
    strangers.push_back(sockets.Dial(ChannelRole::kControl));
    SendHello(*strangers.back());
    const auto word = ReadControl(*strangers.back());
    ASSERT_TRUE(word.ok()) << word.status();
    EXPECT_EQ(MessageName(*word), "WELCOME") << i;
  }
  const HostileSource source(sockets);
  EXPECT_EQ(there.accepted, 1);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// Empty when another message comes, or none.
std::string RefusalFrom(Stream& stream) {
  std::string words;
  const auto answer = ReadControl(stream);
  if (answer.ok() && std::holds_alternative<message::Refuse>(*answer)) {
    words = std::get<message::Refuse>(*answer).reason;
  }
  return words;
}

// R11: only a machine that is accepted ends the wait, and what was made for another one is gone.
TEST(StrangersTest, MachineThatIsRefusedEndsNothing) {
  const TestHost host;
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  std::atomic<bool> refuses = true;
  there.on_build = [&] {
    return refuses ? absl::FailedPreconditionError("there is no \x1b[2J here") : absl::OkStatus();
  };
  auto session = Destination::Create(host.get(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  const auto bring = [&] {
    const auto stranger = sockets.Dial(ChannelRole::kControl);
    SendHello(*stranger);
    EXPECT_TRUE(ReadControl(*stranger).ok());
    EXPECT_TRUE(SendControl(*stranger, message::Machine{}).ok());
    std::string words = RefusalFrom(*stranger);
    ReadToTheEnd(*stranger);
    return words;
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(bring(), "there is no \x1b[2J here");
  }
  refuses = false;
  // After it was built.
  there.bytes = kBytes;
  EXPECT_EQ(bring(), "the machine has 0 memory regions, here it would have 1");
  there.bytes = 0;
  EXPECT_TRUE(host.log().WaitFor("receive: waits on, having refused the machine from unix:")) << host.log().text();
  EXPECT_TRUE(host.log().WaitFor("there is no ?[2J here\n")) << host.log().text();
  EXPECT_EQ((*session)->state(), MoveState::kSetup);
  const HostileSource source(sockets);
  EXPECT_EQ(there.dropped, 4);
  EXPECT_EQ(there.accepted, 1);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// The same of one that leaves while its machine is made.
TEST(StrangersTest, WhoLeavesBeforeItsMachineIsAcceptedEndsNothing) {
  const TestHost host;
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  absl::Notification building;
  absl::Notification left;
  there.on_build = [&] {
    if (!building.HasBeenNotified()) {
      building.Notify();
      left.WaitForNotification();
    }
    return absl::OkStatus();
  };
  auto session = Destination::Create(host.get(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  {
    const auto stranger = sockets.Dial(ChannelRole::kControl);
    SendHello(*stranger);
    EXPECT_TRUE(ReadControl(*stranger).ok());
    SayMachine(*stranger);
    building.WaitForNotification();
    (void)SendControl(*stranger, message::Error{.message = "\x1b[2J"});
    // Until that has been heard.
    ReadToTheEnd(*stranger);
    left.Notify();
  }
  const HostileSource source(sockets);
  EXPECT_TRUE(host.log().WaitFor("the source says: ?[2J\n")) << host.log().text();
  EXPECT_EQ(there.dropped, 1);
  EXPECT_EQ(there.accepted, 1);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// The same of one that does not read the answer: nobody waits for it.
TEST(StrangersTest, WhoDoesNotReadKeepsNobodyWaiting) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  absl::Notification building;
  absl::Notification full;
  there.on_build = [&] {
    if (!building.HasBeenNotified()) {
      building.Notify();
      full.WaitForNotification();
    }
    return absl::OkStatus();
  };
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Hours(1), .patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  const auto stranger = sockets.Dial(ChannelRole::kControl);
  SendHello(*stranger);
  SayMachine(*stranger);
  building.WaitForNotification();
  // Until the answers, and then the questions, fit into no buffer any more.
  stranger->SetPatience(absl::Seconds(1));
  while (SendControl(*stranger, message::Ping{}).ok()) {
  }
  full.Notify();
  const HostileSource source(sockets);
  EXPECT_EQ(there.dropped, 1);
  EXPECT_EQ(there.accepted, 1);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// R11: who may still be a stranger announces no more than a machine needs.
TEST(StrangersTest, LongMessagesAreNotTaken) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  const auto stranger = sockets.Dial(ChannelRole::kControl);
  ASSERT_TRUE(stranger->WriteAll(ControlHeaderOf(kMaxGreetingBytes + 8)).ok());
  EXPECT_NE(ErrorFrom(*stranger).find("at most 262144 are allowed"), std::string::npos);
  const HostileSource source(sockets);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// R7, R11: no machine is made of memory that cannot be.
TEST(StrangersTest, RegionsThatCannotBeAreNotMade) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  std::atomic<int> built = 0;
  there.on_build = [&] {
    ++built;
    return absl::OkStatus();
  };
  auto session = Destination::Create(AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  const MachineSpec::Region regions[] = {
      {.bytes = kBytes, .page_bytes = 0},
      {.bytes = kBytes, .page_bytes = 4095},
      {.bytes = kBytes, .page_bytes = 3 * 4096},
      {.bytes = kBytes, .page_bytes = uint64_t{1} << 63},
      {.base = 4096, .bytes = kBytes, .page_bytes = kBytes},
      {.bytes = kBytes + 1, .page_bytes = 4096},
      {.bytes = 0, .page_bytes = 4096},
      {.base = ~uint64_t{4095}, .bytes = kBytes, .page_bytes = 4096},
      {.kind = static_cast<RegionKind>(1), .bytes = kBytes, .page_bytes = 4096},
  };
  for (const MachineSpec::Region& region : regions) {
    const auto stranger = sockets.Dial(ChannelRole::kControl);
    SendHello(*stranger);
    EXPECT_TRUE(ReadControl(*stranger).ok());
    EXPECT_TRUE(SendControl(*stranger, message::Machine{.spec = {.regions = {region}}}).ok());
    const std::string words = ErrorFrom(*stranger);
    EXPECT_NE(words.find("MACHINE: memory region 0 "), std::string::npos) << words;
  }
  EXPECT_EQ(built, 0);
  const HostileSource source(sockets);
  EXPECT_EQ(built, 1);
  EXPECT_TRUE((*session)->Cancel().ok());
  receiver.Join();
}

// A source whose machine is being made when the destination is told to end hears that.
TEST(StrangersTest, HearOfACancelWhileTheirMachineIsMade) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  there.on_build = [&] {
    EXPECT_TRUE((*session)->Cancel().ok());
    EXPECT_TRUE(there.cancelled) << "who makes it need not go on";
    return absl::FailedPreconditionError("and it is refused");
  };
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  const auto source = sockets.Dial(ChannelRole::kControl);
  SendHello(*source);
  EXPECT_TRUE(ReadControl(*source).ok());
  SayMachine(*source);
  EXPECT_EQ(RefusalFrom(*source), "and it is refused");
  EXPECT_EQ(ErrorFrom(*source), "cancelled");
  receiver.Join();
  EXPECT_TRUE(absl::IsCancelled(result)) << result;
  EXPECT_EQ((*session)->state(), MoveState::kCancelled);
}

// Who waits to be greeted when the destination ends hears that, not of another move.
TEST(StrangersTest, HearWhyTheDestinationEnds) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  auto session = Destination::Create(AnyHost(), there, {.patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  Thread receiver = StartOrDie("receiver", [&] { (void)(*session)->Run(sockets.listener()); });
  const auto stranger = sockets.Dial(ChannelRole::kControl);
  SendHello(*stranger);
  EXPECT_TRUE(ReadControl(*stranger).ok());
  EXPECT_TRUE((*session)->Cancel().ok());
  EXPECT_EQ(ErrorFrom(*stranger), "the destination waits for nobody any more: cancelled");
  receiver.Join();
}

// Whoever comes while a move is on hears so, in every part of it, and the move takes no harm.
TEST(BusyDestinationTest, TellsASecondSourceAtOnce) {
  Sockets sockets;
  FakeDestination there(MemoryBacking::kMemfd);
  // Nothing here is over because of the time.
  auto session = Destination::Create(AnyHost(), there, {.silence = absl::Hours(1), .patience = absl::Hours(1)});
  ASSERT_TRUE(session.ok());
  absl::Status result;
  Thread receiver = StartOrDie("receiver", [&] { result = (*session)->Run(sockets.listener()); });
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  auto second_memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok() && second_memory.ok());
  FakeGuest guest(**memory, {.pages = 100});
  FakeGuest second_guest(**second_memory, {.pages = 100});
  guest.Run();
  second_guest.Run();
  FakeSourcePort port(**memory, guest);
  FakeSourcePort second_port(**second_memory, second_guest);
  const auto try_second = [&](const char* when) {
    auto second =
        Source::Create(AnyHost(), second_port, {.silence = absl::Hours(1), .patience = absl::Hours(1)}, nullptr);
    ASSERT_TRUE(second.ok());
    const absl::Status status = (*second)->Run(sockets.listener().address());
    EXPECT_NE(status.message().find("the destination is busy with another move"), absl::string_view::npos)
        << when << ": " << status;
    EXPECT_TRUE(second_guest.running());
  };
  there.on_run = [&] { try_second("after GRANT"); };
  port.on_save = [&] { try_second("at the switchover"); };
  auto source = Source::Create(AnyHost(), port, {.mode = MoveMode::kPostcopy}, nullptr);
  ASSERT_TRUE(source.ok());
  const absl::Status moved = (*source)->Run(sockets.listener().address());
  EXPECT_TRUE(moved.ok()) << moved;
  receiver.Join();
  EXPECT_TRUE(result.ok()) << result;
  there.guest()->Pause();
  EXPECT_EQ(there.guest()->CheckAll(), 0u);
}

// --- A hostile destination ---

struct Answer {
  const char* name;
  // Acts as the destination on the control connection, the first that is accepted.
  std::function<void(Sockets&, Stream&)> run;
  const char* words;
  MoveMode mode = MoveMode::kPostcopy;
  absl::Duration patience = absl::Seconds(60);
};

class HostileDestinationTest : public testing::TestWithParam<Answer> {};

TEST_P(HostileDestinationTest, TheGuestRunsOnAtTheSource) {
  Sockets sockets;
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.pages = 1000, .random = false});
  guest.Run();
  while (guest.steps() < 1000) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  FakeSourcePort port(**memory, guest);
  auto source =
      Source::Create(AnyHost(), port,
                     {.mode = GetParam().mode, .silence = absl::Seconds(1), .patience = GetParam().patience}, nullptr);
  Thread peer = StartOrDie("peer", [&] {
    const std::unique_ptr<Stream> control = sockets.Accept();
    if (control != nullptr) {
      std::array<uint8_t, kPreambleBytes> preamble;
      EXPECT_TRUE(control->ReadAll(preamble).ok());
      GetParam().run(sockets, *control);
    }
  });
  const absl::Status status = (*source)->Run(sockets.listener().address());
  sockets.Cancel();
  peer.Join();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(GetParam().words), absl::string_view::npos) << status;
  // Where the guest is now is for the machine to say.
  EXPECT_EQ(status.message().find("runs on here"), absl::string_view::npos) << status;
  EXPECT_EQ((*source)->state(), MoveState::kFailed);
  EXPECT_TRUE(guest.running()) << "R3";
  EXPECT_TRUE(port.disks_held);
  EXPECT_EQ(port.inhibited, 0);
}

void Welcome(Stream& control, uint64_t features = kFeaturePostcopy) {
  EXPECT_TRUE(ReadControl(control).ok());
  (void)SendControl(control, message::Welcome{.version = 1, .features = features});
  EXPECT_TRUE(ReadControl(control).ok());
}

void Accept(Stream& control, uint64_t host_page, bool postcopy, uint64_t features = kFeaturePostcopy) {
  Welcome(control, features);
  (void)SendControl(control, message::Accept{.host_page_bytes = {host_page},
                                             .postcopy = postcopy,
                                             .postcopy_reason = "no userfaultfd: set vm.unprivileged_userfaultfd=1"});
}

// A destination that behaves until the guest stands still.
class Receiving {
 public:
  Receiving(Sockets& sockets, Stream& control, uint64_t load_nanoseconds = 0, uint64_t features = kFeaturePostcopy)
      : control_(control) {
    Accept(control, 4096, true, features);
    for (int i = 0; i < 3; ++i) {
      std::unique_ptr<Stream> stream = sockets.Accept();
      std::array<uint8_t, kPreambleBytes> bytes;
      if (stream == nullptr || !stream->ReadAll(bytes).ok()) {
        return;
      }
      const auto preamble = DecodePreamble(bytes);
      (preamble.ok() && preamble->role == ChannelRole::kPage ? page : urgent).push_back(std::move(stream));
    }
    EXPECT_TRUE(ReadControl(control).ok());  // ADVISE
    (void)SendRaw(control, [&](stream::Control::Builder out) { out.initReady().setLoadNanoseconds(load_nanoseconds); });
  }

  // Takes the rounds of a pre-copy, until the source asks whether they have arrived: what comes then is the last.
  void AwaitSwitchover() {
    std::atomic<bool> over = false;
    Thread drain = StartOrDie("drain", [&] {
      std::vector<uint8_t> bytes(1 << 20);
      while (!over) {
        (void)SendControl(control_, message::Ping{});
        if (AwaitReadable(*page[0], absl::Milliseconds(20)) &&
            recv(page[0]->fd(), bytes.data(), bytes.size(), 0) <= 0) {
          break;
        }
      }
    });
    for (auto message = ReadControl(control_); message.ok(); message = ReadControl(control_)) {
      if (std::holds_alternative<message::Discard>(*message)) {
        break;
      }
    }
    over = true;
    drain.Join();
    (void)SendControl(control_, message::Discarded{});
  }
  // Whether it came.
  bool AwaitPackage() {
    for (auto message = ReadControl(control_); message.ok(); message = ReadControl(control_)) {
      if (const auto* const discard = std::get_if<message::Discard>(&*message); discard != nullptr && discard->last) {
        (void)SendControl(control_, message::Discarded{});
      }
      if (std::holds_alternative<message::Package>(*message)) {
        return true;
      }
    }
    return false;
  }
  void Request(const PageHeader& header) { (void)urgent[0]->WriteAll(EncodePageHeader(header)); }
  Thread DrainPages() {
    return StartOrDie("drain", [this] {
      std::array<uint8_t, 4096> bytes;
      while (page[0]->ReadAll(bytes).ok()) {
      }
    });
  }
  // Shows that it lives, until the source has gone.
  void Live() {
    while (SendControl(control_, message::Ping{}).ok()) {
      absl::SleepFor(absl::Milliseconds(50));
    }
  }

  std::vector<std::unique_ptr<Stream>> page;
  std::vector<std::unique_ptr<Stream>> urgent;

 private:
  Stream& control_;
};

std::function<void(Sockets&, Stream&)> WelcomesWith(uint16_t version) {
  return [version](Sockets&, Stream& control) {
    EXPECT_TRUE(ReadControl(control).ok());
    (void)SendControl(control, message::Welcome{.version = version});
    ReadToTheEnd(control);
  };
}

// Asks for something while the guest stands still, and says nothing else.
std::function<void(Sockets&, Stream&)> Asks(PageHeader request) {
  request.type = PageFrameType::kRequest;
  return [request](Sockets& sockets, Stream& control) {
    Receiving there(sockets, control);
    if (there.AwaitPackage()) {
      there.Request(request);
      there.Live();
    }
  };
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileDestinationTest,
    testing::Values(
        Answer{"ClosesAtOnce", [](Sockets&, Stream&) {}, "setup: "},
        Answer{"Rubbish",
               [](Sockets&, Stream& c) {
                 (void)c.WriteAll(std::vector<uint8_t>(64, 7));
                 ReadToTheEnd(c);
               },
               "does not speak ferrite's move protocol (wrong mark)"},
        Answer{"OldVersion", WelcomesWith(0), "version"},
        Answer{"VersionThatNobodyOffered", WelcomesWith(9), "version"},
        Answer{"FrameOf4Gib",
               [](Sockets&, Stream& c) {
                 (void)c.WriteAll(ControlHeaderOf(0xffff'fff8));
                 ReadToTheEnd(c);
               },
               "are allowed"},
        Answer{"ClosesInTheMiddleOfAFrame",
               [](Sockets&, Stream& c) {
                 // With nothing left unread: that would be a reset.
                 EXPECT_TRUE(ReadControl(c).ok());
                 (void)c.WriteAll(ControlHeaderOf(4096));
               },
               "closed the connection in the middle"},
        Answer{"StopsReading", [](Sockets& s, Stream& c) { Receiving(s, c).Live(); }, "stopped reading",
               MoveMode::kPrecopy},
        Answer{"RefusesWhenItHasLoaded",
               [](Sockets& s, Stream& c) {
                 Receiving there(s, c);
                 if (there.AwaitPackage()) {
                   (void)SendControl(c, message::Loaded{});
                   (void)SendControl(c, message::Refuse{.reason = "no more"});
                 }
               },
               "the destination refuses: no more"},
        Answer{"RequestOutside", Asks({.first_page = kBytes / 4096, .count = 1}), "outside of region 0"},
        Answer{"RequestOverTheEnd", Asks({.first_page = 1, .count = 0xffff'ffff}), "outside of region 0"},
        Answer{"RequestOfNoRegion", Asks({.region = 5, .first_page = 0, .count = 1}), "no request"},
        Answer{"RequestOfMoreThanAPage", Asks({.first_page = 7, .count = 2}),
               "pages 7+2 of region 0, which are no one"},
        Answer{"RequestOfEverything", Asks({.first_page = 0, .count = kBytes / 4096}), "which are no one host page"},
        Answer{"RequestOfNothing", Asks({.first_page = 0, .count = 0}), "no pages"},
        Answer{"RubbishOnUrgent",
               [](Sockets& s, Stream& c) {
                 Receiving there(s, c);
                 if (there.AwaitPackage()) {
                   (void)there.urgent[1]->WriteAll(std::vector<uint8_t>(4096, 7));
                   there.Live();
                 }
               },
               "checksum"},
        Answer{"NeverLoads",
               [](Sockets& s, Stream& c) {
                 Receiving there(s, c);
                 if (there.AwaitPackage()) {
                   const Thread drain = there.DrainPages();
                   there.Live();
                 }
               },
               "lives, but the guest stood still for 3.2s"},
        // Little by little, so that no single write takes too long.
        Answer{"HardlyReadsTheLastRound",
               [](Sockets& s, Stream& c) {
                 Receiving there(s, c);
                 there.AwaitSwitchover();
                 std::array<uint8_t, 4096> bytes;
                 while (SendControl(c, message::Ping{}).ok() && there.page[0]->ReadAll(bytes).ok()) {
                   absl::SleepFor(absl::Milliseconds(50));
                 }
               },
               "lives, but the guest stood still for 3.2s", MoveMode::kPrecopy},
        Answer{"NeedsAgesToLoad", [](Sockets& s, Stream& c) { Receiving(s, c, 1'000'000'000'000).Live(); },
               "needs 16m40s to load"},
        Answer{"NeedsMoreThanTimeCanSay", [](Sockets& s, Stream& c) { Receiving(s, c, ~uint64_t{0}).Live(); },
               "to load the machine's state"},
        Answer{"NeverAnswers",
               [](Sockets&, Stream& c) {
                 std::array<uint8_t, 256> bytes;
                 while (c.ReadAll(bytes).ok()) {
                 }
               },
               "1.5s", MoveMode::kPostcopy, absl::Milliseconds(1500)},
        Answer{"LivesAndNeverAnswers",
               [](Sockets&, Stream& c) {
                 while (SendControl(c, message::Ping{}).ok()) {
                   absl::SleepFor(absl::Milliseconds(20));
                 }
               },
               "lives, but did not answer within", MoveMode::kPostcopy, absl::Milliseconds(400)},
        Answer{"Refuses",
               [](Sockets&, Stream& c) {
                 Welcome(c);
                 (void)SendControl(c, message::Refuse{.reason = "the CPU here lacks avx512f"});
                 ReadToTheEnd(c);
               },
               "refuses: the CPU here lacks avx512f"},
        Answer{"RefusesInEscapeSequences",
               [](Sockets&, Stream& c) {
                 Welcome(c);
                 (void)SendControl(c, message::Refuse{.reason = "no\x1b[2J\nferrite: web1 runs there"});
                 ReadToTheEnd(c);
               },
               "refuses: no?[2J?ferrite: web1 runs there"},
        Answer{"AcceptsWithAbsurdPages", [](Sockets&, Stream& c) { Accept(c, 12345, true); }, "pages of"},
        Answer{"CannotServeFaults", [](Sockets&, Stream& c) { Accept(c, 4096, false); },
               "vm.unprivileged_userfaultfd=1"},
        Answer{"ClosesAfterAccept", [](Sockets&, Stream& c) { Accept(c, 4096, true); }, "unix:/tmp/ferrite-peer-"},
        Answer{"SaysRunningTooEarly",
               [](Sockets&, Stream& c) {
                 Welcome(c);
                 (void)SendControl(c, message::Running{});
                 ReadToTheEnd(c);
               },
               "RUNNING where ACCEPT was due"}),
    [](const testing::TestParamInfo<Answer>& info) { return info.param.name; });

// R2, R10: it has the guest, lives, and never says that it has all of it. The source does not wait for ever, and keeps
// what it has.
TEST(SilentEndTest, LeavesTheSourcePausedWithItsMemory) {
  Sockets sockets;
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.pages = 100});
  guest.Run();
  FakeSourcePort port(**memory, guest);
  // Longer than a busy host may keep a thread of either side from running.
  auto source = Source::Create(
      AnyHost(), port, {.mode = MoveMode::kPostcopy, .silence = absl::Seconds(2), .recover_for = absl::ZeroDuration()},
      nullptr);
  ASSERT_TRUE(source.ok());
  Thread peer = StartOrDie("peer", [&] {
    const std::unique_ptr<Stream> control = sockets.Accept();
    std::array<uint8_t, kPreambleBytes> preamble;
    ASSERT_TRUE(control != nullptr && control->ReadAll(preamble).ok());
    Receiving there(sockets, *control);
    ASSERT_TRUE(there.AwaitPackage());
    const Thread drain = there.DrainPages();
    (void)SendControl(*control, message::Loaded{});
    ASSERT_EQ(MessageName(*ReadControl(*control)), "GRANT");
    (void)SendControl(*control, message::Running{.epoch = 1});
    // What it is told meanwhile fits into no buffer.
    const Thread hear = StartOrDie("hear", [&] { ReadToTheEnd(*control); });
    there.Live();
  });
  const absl::Status status = (*source)->Run(sockets.listener().address());
  sockets.Cancel();
  peer.Join();
  EXPECT_NE(status.message().find("did not answer within"), absl::string_view::npos) << status;
  EXPECT_EQ((*source)->state(), MoveState::kPostcopyPaused);
  EXPECT_FALSE(guest.running()) << "R2";
}

// R4: a destination that hangs up and comes back, again and again, is looked for no longer than one that is gone:
// whatever it says when it is found.
struct ComesBack {
  const char* name;
  // On a connection that came again, after RECOVER.
  std::function<void(Sockets&, Stream&)> answers;
};

class ComesBackTest : public testing::TestWithParam<ComesBack> {};

TEST_P(ComesBackTest, IsLookedForNoLonger) {
  Sockets sockets;
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.pages = 100});
  guest.Run();
  FakeSourcePort port(**memory, guest);
  auto source = Source::Create(
      AnyHost(), port,
      {.mode = MoveMode::kPostcopy, .silence = absl::Seconds(2), .recover_for = absl::Milliseconds(700)}, nullptr);
  ASSERT_TRUE(source.ok());
  std::atomic<int> came = 0;
  Thread peer = StartOrDie("peer", [&] {
    {
      const std::unique_ptr<Stream> control = sockets.Accept();
      std::array<uint8_t, kPreambleBytes> preamble;
      ASSERT_TRUE(control != nullptr && control->ReadAll(preamble).ok());
      Receiving there(sockets, *control, 0, kFeaturePostcopy | kFeatureRecovery);
      ASSERT_TRUE(there.AwaitPackage());
      const Thread drain = there.DrainPages();
      (void)SendControl(*control, message::Loaded{});
      ASSERT_EQ(MessageName(*ReadControl(*control)), "GRANT");
      control->Shutdown();
      there.page[0]->Shutdown();
    }
    while (const std::unique_ptr<Stream> control = sockets.Accept()) {
      std::array<uint8_t, kPreambleBytes> preamble;
      if (control->ReadAll(preamble).ok() && ReadControl(*control).ok()) {
        ++came;
        GetParam().answers(sockets, *control);
      }
    }
  });
  const MonotonicTime start = MonotonicTime::Now();
  const absl::Status status = (*source)->Run(sockets.listener().address());
  const absl::Duration took = MonotonicTime::Now() - start;
  sockets.Cancel();
  peer.Join();
  EXPECT_FALSE(status.ok());
  EXPECT_EQ((*source)->state(), MoveState::kPostcopyPaused);
  EXPECT_GE(came, 1);
  EXPECT_LT(took, absl::Seconds(20));
  EXPECT_FALSE(guest.running()) << "R2";
}

void SayStanding(Stream& control, bool granted) { (void)SendControl(control, message::Standing{.granted = granted}); }

INSTANTIATE_TEST_SUITE_P(
    All, ComesBackTest,
    testing::Values(ComesBack{"HangsUp", [](Sockets&, Stream&) {}},
                    ComesBack{"SaysThatItHasIt", [](Sockets&, Stream& c) { SayStanding(c, true); }},
                    // GRANT is sent again, and it says RUNNING again.
                    ComesBack{"NeverGotTheGrant",
                              [](Sockets&, Stream& c) {
                                SayStanding(c, false);
                                if (ReadControl(c).ok()) {
                                  (void)SendControl(c, message::Running{.epoch = 2});
                                }
                              }},
                    // It misses as much each time, takes its time with it, and hangs up.
                    ComesBack{"TakesNothing",
                              [](Sockets& sockets, Stream& c) {
                                SayStanding(c, true);
                                (void)SendControl(c,
                                                  message::Missing{.ranges = {{.count = kBytes / 4096}}, .last = true});
                                std::vector<std::unique_ptr<Stream>> channels;
                                for (int i = 0; i < 3; ++i) {
                                  channels.push_back(sockets.Accept());
                                }
                                const MonotonicTime until = MonotonicTime::Now() + absl::Milliseconds(900);
                                while (MonotonicTime::Now() < until && SendControl(c, message::Ping{}).ok()) {
                                  absl::SleepFor(absl::Milliseconds(20));
                                }
                              }}),
    [](const testing::TestParamInfo<ComesBack>& info) { return info.param.name; });

// R4: a destination that is found again and tells what is missing without an end, alive all the while, takes no more
// time than there is to look for one.
TEST(EndlessMissingTest, IsLookedForNoLonger) {
  Sockets sockets;
  auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  FakeGuest guest(**memory, {.pages = 100});
  guest.Run();
  FakeSourcePort port(**memory, guest);
  auto source = Source::Create(
      AnyHost(), port,
      {.mode = MoveMode::kPostcopy, .patience = absl::Seconds(60), .recover_for = absl::Milliseconds(200)}, nullptr);
  ASSERT_TRUE(source.ok());
  std::atomic<int> told = 0;
  Thread peer = StartOrDie("peer", [&] {
    {
      const std::unique_ptr<Stream> control = sockets.Accept();
      std::array<uint8_t, kPreambleBytes> preamble;
      ASSERT_TRUE(control != nullptr && control->ReadAll(preamble).ok());
      Receiving there(sockets, *control, 0, kFeaturePostcopy | kFeatureRecovery);
      ASSERT_TRUE(there.AwaitPackage());
      const Thread drain = there.DrainPages();
      (void)SendControl(*control, message::Loaded{});
      ASSERT_EQ(MessageName(*ReadControl(*control)), "GRANT");
      (void)SendControl(*control, message::Running{.epoch = 1});
      control->Shutdown();
      there.page[0]->Shutdown();
    }
    while (const std::unique_ptr<Stream> control = sockets.Accept()) {
      std::array<uint8_t, kPreambleBytes> preamble;
      if (!control->ReadAll(preamble).ok() || !ReadControl(*control).ok()) {
        continue;
      }
      (void)SendControl(*control, message::Standing{.granted = true});
      for (uint64_t page = 0;
           SendControl(*control, message::Missing{.ranges = {{.first = page, .count = 1}}, .last = false}).ok();
           ++page) {
        ++told;
        absl::SleepFor(absl::Milliseconds(100));
      }
    }
  });
  const MonotonicTime start = MonotonicTime::Now();
  const absl::Status status = (*source)->Run(sockets.listener().address());
  const absl::Duration took = MonotonicTime::Now() - start;
  sockets.Cancel();
  peer.Join();
  EXPECT_FALSE(status.ok());
  EXPECT_EQ((*source)->state(), MoveState::kPostcopyPaused);
  EXPECT_GT(told, 0);
  // All that it tells takes 100 s.
  EXPECT_LT(took, absl::Seconds(20));
  EXPECT_FALSE(guest.running()) << "R2";
}

}  // namespace
}  // namespace ferrite::migration
