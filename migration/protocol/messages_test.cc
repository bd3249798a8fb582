#include "migration/protocol/messages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/sample_messages.h"

namespace ferrite::migration {
namespace {

absl::StatusOr<Message> DecodeRaw(const std::function<void(stream::Control::Builder)>& fill) {
  capnp::MallocMessageBuilder message;
  fill(message.initRoot<stream::Control>());
  return DecodeFrame(EncodeControl(message));
}

TEST(MessagesTest, EveryMessageComesBackAsItWas) {
  const std::vector<Message> all = SampleMessages();
  std::set<absl::string_view> names;
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].index(), i);
    auto read = DecodeFrame(Encode(all[i]));
    ASSERT_TRUE(read.ok()) << MessageName(all[i]) << ": " << read.status();
    EXPECT_TRUE(*read == all[i]) << MessageName(all[i]);
    names.insert(MessageName(all[i]));
  }
  EXPECT_EQ(names.size(), std::variant_size_v<Message>);
}

TEST(MessagesTest, TextsAndBlobsMayBeEmptyOrHaveAnyByte) {
  const std::string odd("\0\xff\x1b[2J\0", 7);
  for (const std::string& text : {std::string(), odd}) {
    const auto read = DecodeFrame(Encode(message::Error{.message = text}));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(std::get<message::Error>(*read).message, text);
  }
  const auto package = DecodeFrame(Encode(message::Package{.version = 1}));
  ASSERT_TRUE(package.ok()) << package.status();
  EXPECT_TRUE(std::get<message::Package>(*package).blob.empty());
}

TEST(MessagesTest, UnknownMessagesAreErrors) {
  EXPECT_EQ(DecodeRaw([](stream::Control::Builder out) { out.setInvalid(); }).status(),
            absl::InvalidArgumentError("control frame: an unknown message (0)"));
  // Of a later version: the discriminant is in the first word of the root.
  std::vector<uint64_t> payload = PayloadOf(Encode(message::Heard{}));
  bool found = false;
  for (uint64_t& word : payload) {
    if (const auto message = Decode(payload); message.ok() && word != 0) {
      const uint64_t before = std::exchange(word, 99);
      const auto now = Decode(payload);
      found |= now.status() == absl::InvalidArgumentError("control frame: an unknown message (99)");
      word = before;
    }
  }
  EXPECT_TRUE(found);
}

struct Bound {
  const char* words;
  std::function<void(stream::Control::Builder)> fill;
};

// R11
TEST(MessagesTest, MoreThanMayBeIsRefused) {
  const Bound bounds[] = {
      {"DISCARD: 4097 ranges, at most 4096 are allowed",
       [](auto out) { out.initDiscard().initRanges(kMaxRanges + 1); }},
      {"MISSING: 4097 ranges, at most 4096 are allowed",
       [](auto out) { out.initMissing().initRanges(kMaxRanges + 1); }},
      {"MACHINE: 65 memory regions, at most 64 are allowed",
       [](auto out) { out.initMachine().initRegions(kMaxRegions + 1); }},
      {"ACCEPT: 65 memory regions, at most 64 are allowed",
       [](auto out) { out.initAccept().initHostPageBytes(kMaxRegions + 1); }},
      {"HELLO: the move's id has 15 bytes", [](auto out) { out.initHello().initMoveId(15); }},
      {"HELLO: the move's id has 0 bytes", [](auto out) { out.initHello(); }},
      {"GRANT: the move's id has 17 bytes", [](auto out) { out.initGrant().initMoveId(17); }},
      {"RECOVER: the move's id has 0 bytes", [](auto out) { out.initRecover(); }},
      {"HELLO: the key has 31 bytes",
       [](auto out) {
         auto hello = out.initHello();
         hello.initMoveId(16);
         hello.initKey(31);
       }},
      {"HELLO: the nonce has 0 bytes",
       [](auto out) {
         auto hello = out.initHello();
         hello.initMoveId(16);
         hello.initKey(32);
       }},
      {"WELCOME: the key has 0 bytes", [](auto out) { out.initWelcome(); }},
      {"WELCOME: the nonce has 33 bytes",
       [](auto out) {
         auto welcome = out.initWelcome();
         welcome.initKey(32);
         welcome.initNonce(33);
       }},
      {"MACHINE: the digest has 0 bytes", [](auto out) { out.initMachine(); }},
      {"ACCEPT: the digest has 31 bytes", [](auto out) { out.initAccept().initDigest(31); }},
      {"STANDING: the digest has 0 bytes", [](auto out) { out.initStanding(); }},
      {"OPENED: the digest has 33 bytes", [](auto out) { out.initOpened().initDigest(33); }},
  };
  for (const Bound& bound : bounds) {
    EXPECT_EQ(DecodeRaw(bound.fill).status(), absl::InvalidArgumentError(bound.words));
  }
}

TEST(MessagesTest, RegionsOfAnUnknownKindAreRefused) {
  EXPECT_EQ(DecodeRaw([](stream::Control::Builder out) {
              auto region = out.initMachine().initRegions(1)[0];
              region.setKind(static_cast<stream::Region::Kind>(7));
              region.setBytes(4096);
              region.setPageBytes(4096);
            }).status(),
            absl::InvalidArgumentError("MACHINE: memory region 0 is of a kind (7) that is not known"));
}

constexpr uint64_t kEnd = uint64_t{1} << 63;

struct Place {
  uint64_t base, bytes, page_bytes;
};

absl::Status DecodeRegion(const Place& place) {
  return DecodeRaw([&](stream::Control::Builder out) {
           auto machine = out.initMachine();
           machine.initDigest(sizeof(Digest));
           auto regions = machine.initRegions(2);
           regions[0].setBytes(4096);
           regions[0].setPageBytes(4096);
           regions[1].setBase(place.base);
           regions[1].setBytes(place.bytes);
           regions[1].setPageBytes(place.page_bytes);
         })
      .status();
}

// R11
TEST(MessagesTest, RegionsThatCannotBeAreRefused) {
  const std::pair<const char*, Place> refusals[] = {
      {"has pages of 0 bytes: no power of two from 4096 on", {0, 4096, 0}},
      {"has pages of 2048 bytes: no power of two from 4096 on", {0, 4096, 2048}},
      {"has pages of 12288 bytes: no power of two from 4096 on", {0, 12288, 12288}},
      {"has pages of 4097 bytes: no power of two from 4096 on", {0, 4097, 4097}},
      {"has pages of 18446744073709551615 bytes: no power of two from 4096 on", {0, ~uint64_t{0}, ~uint64_t{0}}},
      {"has 0 bytes at 0: no whole pages of 4096 bytes", {0, 0, 4096}},
      {"has 4097 bytes at 0: no whole pages of 4096 bytes", {0, 4097, 4096}},
      {"has 4096 bytes at 0: no whole pages of 2097152 bytes", {0, 4096, 2 << 20}},
      {"has 2097152 bytes at 4096: no whole pages of 2097152 bytes", {4096, 2 << 20, 2 << 20}},
      {"has 9223372036854779904 bytes at 9223372036854775808: more than can be there", {kEnd, kEnd + 4096, 4096}},
  };
  for (const auto& [words, place] : refusals) {
    EXPECT_EQ(DecodeRegion(place), absl::InvalidArgumentError(absl::StrCat("MACHINE: memory region 1 ", words)));
  }
  for (const Place& place : {Place{0, 4096, 4096}, Place{4 << 20, 2 << 20, 2 << 20}, Place{kEnd, kEnd - 4096, 4096},
                             Place{kEnd, kEnd / 2, kEnd / 2}}) {
    EXPECT_EQ(DecodeRegion(place), absl::OkStatus()) << place.base << "+" << place.bytes << "/" << place.page_bytes;
  }
}

TEST(MessagesTest, AsMuchAsMayBeIsTaken) {
  for (const std::function<void(stream::Control::Builder)>& fill :
       std::vector<std::function<void(stream::Control::Builder)>>{
           [](auto out) { out.initDiscard().initRanges(kMaxRanges); },
           [](auto out) { out.initMissing().initRanges(kMaxRanges); },
           [](auto out) {
             auto machine = out.initMachine();
             machine.initDigest(sizeof(Digest));
             for (auto region : machine.initRegions(kMaxRegions)) {
               region.setBytes(4096);
               region.setPageBytes(4096);
             }
           },
           [](auto out) {
             auto accept = out.initAccept();
             accept.initDigest(sizeof(Digest));
             accept.initHostPageBytes(kMaxRegions);
           },
       }) {
    const auto read = DecodeRaw(fill);
    EXPECT_TRUE(read.ok()) << read.status();
  }
}

TEST(MessagesTest, WaitsBeyondTheMostAreLeftOut) {
  const auto read = DecodeRaw([](auto out) {
    auto waiting = out.initShut().initFigures().initWaiting(kMaxWaits + 9);
    for (uint32_t i = 0; i < waiting.size(); ++i) {
      waiting[i].setVcpu(i);
    }
  });
  ASSERT_TRUE(read.ok()) << read.status();
  const auto& waits = std::get<message::Shut>(*read).figures.waiting;
  ASSERT_EQ(waits.size(), kMaxWaits);
  EXPECT_EQ(waits.back().vcpu, kMaxWaits - 1);
}

TEST(MessagesTest, DurationsAreWhatTimeCanSay) {
  constexpr absl::Duration kMost = absl::Nanoseconds(std::numeric_limits<int64_t>::max());
  const uint64_t never = ~uint64_t{0};
  EXPECT_TRUE(*DecodeRaw([&](auto out) { out.initReady().setLoadNanoseconds(never); }) ==
              Message(message::Ready{.load = kMost}));
  EXPECT_TRUE(*DecodeRaw([&](auto out) { out.initLoaded().setLoadNanoseconds(never); }) ==
              Message(message::Loaded{.load = kMost}));
  const auto shut = DecodeRaw([&](auto out) {
    auto wait = out.initShut().initFigures().initWaiting(1)[0];
    wait.setP50(never);
    wait.setP99(never);
    wait.setMax(never);
    wait.setSum(never);
  });
  EXPECT_EQ(std::get<message::Shut>(*shut).figures.waiting[0],
            (WaitingFigures{.p50 = kMost, .p99 = kMost, .max = kMost, .sum = kMost}));
  // Ours are never less than nothing on the wire.
  EXPECT_TRUE(*DecodeFrame(Encode(message::Loaded{.load = -absl::Seconds(1)})) == Message(message::Loaded{}));
}

TEST(MessagesTest, DamagedPackagesAreErrors) {
  for (const auto& [length, crc] : {std::pair<uint64_t, uint32_t>{uint64_t{1} << 63, Crc32c({})}, {0, 12345}}) {
    const auto read = DecodeRaw([&, length = length, crc = crc](auto out) {
      auto package = out.initPackage();
      package.setLength(length);
      package.setCrc32c(crc);
    });
    EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(read.status().message().find("the package is damaged: 0 of "), absl::string_view::npos) << read.status();
  }
}

// Pointers may share what they point to: a little may look like much.
TEST(MessagesTest, WhatIsMadeOfLittleIsBounded) {
  const auto read = DecodeRaw([](auto out) {
    auto machine = out.initMachine();
    machine.initDigest(sizeof(Digest));
    auto regions = machine.initRegions(kMaxRegions);
    for (auto region : regions) {
      region.setName(std::string(100'000, 'x'));
      region.setBytes(4096);
      region.setPageBytes(4096);
    }
  });
  EXPECT_TRUE(read.ok()) << "as long as it is there: " << read.status();
}

TEST(MessagesTest, CutMessagesAreErrors) {
  for (const Message& message : SampleMessages()) {
    const std::vector<uint64_t> whole = PayloadOf(Encode(message));
    for (size_t words = 0; words < whole.size(); ++words) {
      const auto read = Decode(std::span(whole).first(words));
      // The last words may be padding of nothing.
      EXPECT_TRUE(!read.ok() || words + 1 == whole.size()) << MessageName(message) << " cut to " << words;
    }
  }
}

// R11: nothing in a payload with a right checksum, but a wrong content, makes reading it crash or run away.
TEST(MessagesTest, MalformedMessagesAreErrors) {
  std::mt19937 random(3);
  int refused = 0;
  for (const Message& message : SampleMessages()) {
    const std::vector<uint64_t> good = PayloadOf(Encode(message));
    for (int i = 0; i < 2000; ++i) {
      std::vector<uint64_t> payload = good;
      for (int n = 0; n < 3; ++n) {
        reinterpret_cast<uint8_t*>(payload.data())[random() % (payload.size() * 8)] = static_cast<uint8_t>(random());
      }
      refused += Decode(payload).ok() ? 0 : 1;
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace ferrite::migration
