// The newest wire says everything of version 2 as version 2 does: what either encodes, the other one decodes, field by
// field and byte by byte. The frozen side is the peer of version2_move_test, which has nothing of the engine.
//
// What was added since may be there: a field that version 2 does not know is passed over by it, a message is refused.
#include <capnp/dynamic.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/lost_filler.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/page_sums.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/stream.capnp.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"
#include "tests/compat/filled_message.h"
#include "tests/compat/version2.capnp.h"
#include "tests/compat/version2_bytes.h"
#include "tests/compat/version2_line.h"
#include "tests/compat/version2_secret.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/sample_messages.h"

namespace ferrite {
namespace {

using version2::Bytes;

// --- Messages ---

// What is not the same in the schemas, of what version 2 knows; empty when nothing is.
std::string Difference(capnp::Type frozen, capnp::Type newest);

std::string Difference(capnp::StructSchema frozen, capnp::StructSchema newest) {
  for (const auto field : frozen.getFields()) {
    const auto proto = field.getProto();
    const std::string name = absl::StrCat(frozen.getShortDisplayName().cStr(), ".", proto.getName().cStr());
    KJ_IF_MAYBE (other, newest.findFieldByName(proto.getName())) {
      const auto other_proto = other->getProto();
      if (proto.getDiscriminantValue() != other_proto.getDiscriminantValue() || !other_proto.isSlot()) {
        return absl::StrCat(name, " is another member");
      }
      if (proto.getSlot().getOffset() != other_proto.getSlot().getOffset()) {
        return absl::StrCat(name, " is at another place");
      }
      if (kj::str(proto.getSlot().getDefaultValue()) != kj::str(other_proto.getSlot().getDefaultValue())) {
        return absl::StrCat(name, " has another default");
      }
      if (const std::string inside = Difference(field.getType(), other->getType()); !inside.empty()) {
        return absl::StrCat(name, ": ", inside);
      }
    } else {
      return absl::StrCat(name, " has gone");
    }
  }
  return "";
}

std::string Difference(capnp::Type frozen, capnp::Type newest) {
  if (frozen.which() != newest.which()) {
    return "another type";
  }
  if (frozen.isList()) {
    return Difference(frozen.asList().getElementType(), newest.asList().getElementType());
  }
  if (frozen.isEnum()) {
    for (const auto value : frozen.asEnum().getEnumerants()) {
      const auto other = newest.asEnum().findEnumerantByName(value.getProto().getName());
      bool same = false;
      KJ_IF_MAYBE (found, other) {
        same = found->getOrdinal() == value.getOrdinal();
      }
      if (!same) {
        return absl::StrCat(value.getProto().getName().cStr(), " is another value, or has gone");
      }
    }
  }
  return frozen.isStruct() ? Difference(frozen.asStruct(), newest.asStruct()) : "";
}

void Copy(capnp::DynamicStruct::Reader from, capnp::DynamicStruct::Builder to);

// As `to` has it, which is of a type that only its schema says to be another one.
void CopyField(capnp::DynamicValue::Reader value, capnp::DynamicStruct::Builder out, capnp::StructSchema::Field to) {
  if (to.getType().isStruct()) {
    Copy(value.as<capnp::DynamicStruct>(), out.init(to).as<capnp::DynamicStruct>());
  } else if (to.getType().isEnum()) {
    out.set(to, capnp::DynamicEnum(to.getType().asEnum(), value.as<capnp::DynamicEnum>().getRaw()));
  } else if (to.getType().isList()) {
    const auto list = value.as<capnp::DynamicList>();
    auto copy = out.init(to, list.size()).as<capnp::DynamicList>();
    for (uint32_t i = 0; i < list.size(); ++i) {
      if (to.getType().asList().getElementType().isStruct()) {
        Copy(list[i].as<capnp::DynamicStruct>(), copy[i].as<capnp::DynamicStruct>());
      } else {
        copy.set(i, list[i]);
      }
    }
  } else {
    out.set(to, value);
  }
}

// By the names of fields, as far as both schemas have them.
void Copy(capnp::DynamicStruct::Reader from, capnp::DynamicStruct::Builder to) {
  const auto copy = [&](capnp::StructSchema::Field field) {
    KJ_IF_MAYBE (target, to.getSchema().findFieldByName(field.getProto().getName())) {
      CopyField(from.get(field), to, *target);
    }
  };
  for (const auto field : from.getSchema().getNonUnionFields()) {
    copy(field);
  }
  KJ_IF_MAYBE (member, from.which()) {
    copy(*member);
  }
}

// A message of `T` that says the same, as far as `T` knows it.
template <typename T, typename From>
kj::Own<capnp::MallocMessageBuilder> Told(From from) {
  auto message = kj::heap<capnp::MallocMessageBuilder>();
  Copy(capnp::toDynamic(from), capnp::toDynamic(message->initRoot<T>()));
  return message;
}

// The bytes that everybody gives it who follows the same rules: by them the order of a message's parts is of no
// account.
template <typename T>
std::string Canonical(capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> words = capnp::canonicalize(message.getRoot<T>().asReader());
  return {words.asChars().begin(), words.asChars().end()};
}

template <typename T>
std::string TextOf(capnp::MessageBuilder& message) {
  return kj::str(message.getRoot<T>().asReader()).cStr();
}

TEST(Version2AgreesTest, SchemaHasWhatItHad) {
  EXPECT_EQ(Difference(capnp::Schema::from<version2::Control>(), capnp::Schema::from<stream::Control>()), "");
}

// Of every member, with something in every field.
TEST(Version2AgreesTest, EveryMessageHasTheSameBytes) {
  for (uint32_t i = 1; i < Variants(capnp::Schema::from<version2::Control>()); ++i) {
    SCOPED_TRACE(i);
    capnp::MallocMessageBuilder frozen;
    Filler().Struct(frozen.initRoot<version2::Control>(), i);
    auto newest = Told<stream::Control>(frozen.getRoot<version2::Control>().asReader());
    EXPECT_EQ(Canonical<version2::Control>(frozen), Canonical<stream::Control>(*newest))
        << TextOf<version2::Control>(frozen) << "\n"
        << TextOf<stream::Control>(*newest);
  }
}

// What the newest encoder makes of a message, to the frozen decoder.
absl::StatusOr<version2::Heard> HearFrozen(std::span<const uint8_t> frame) {
  version2::ControlHeaderBytes head;
  std::copy_n(frame.begin(), head.size(), head.begin());
  const auto header = version2::DecodeControlHeader(head, version2::kMostBytes);
  if (!header.ok()) {
    return header.status();
  }
  const std::span<const uint8_t> payload = frame.subspan(head.size());
  if (header->length != payload.size() || header->payload_crc != version2::Crc32c(payload)) {
    return absl::DataLossError("another length, or sum");
  }
  return version2::Heard::Decode(payload);
}

TEST(Version2AgreesTest, EncodersAndDecodersUnderstandOneAnother) {
  size_t understood = 0;
  for (const migration::Message& message : migration::SampleMessages()) {
    SCOPED_TRACE(migration::MessageName(message));
    const auto heard = HearFrozen(migration::Encode(message));
    if (!heard.ok()) {
      // One that came later.
      EXPECT_TRUE(absl::StrContains(heard.status().message(), "none of version 2")) << heard.status();
      continue;
    }
    ++understood;
    auto said = Told<version2::Control>(heard->message());
    // The frozen encoder's, to the newest decoder, and back: nothing of it has become something else.
    const Bytes frame = version2::FrameOf(
        [&](version2::Control::Builder out) { Copy(capnp::toDynamic(heard->message()), capnp::toDynamic(out)); });
    const auto decoded = migration::DecodeFrame(frame);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(migration::MessageName(*decoded), migration::MessageName(message));
    const auto again = HearFrozen(migration::Encode(*decoded));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(kj::str(again->message()), kj::str(said->getRoot<version2::Control>().asReader()));
    // And their frames have one header.
    const Bytes newest = migration::Encode(message);
    EXPECT_EQ(version2::ControlFrame(std::span<const uint8_t>(newest).subspan(sizeof(version2::ControlHeaderBytes))),
              newest);
  }
  EXPECT_EQ(understood, Variants(capnp::Schema::from<version2::Control>()) - 1);
}

// --- What is no message ---

class Version2BytesTest : public testing::Test {
 protected:
  uint64_t Number() { return random_() >> (random_() % 64); }
  template <typename T>
  T Array() {
    T bytes;
    std::ranges::generate(bytes, [this] { return static_cast<uint8_t>(random_()); });
    return bytes;
  }

  std::mt19937_64 random_{2};
};

TEST_F(Version2BytesTest, PreamblesAreTheSame) {
  for (int i = 0; i < 1000; ++i) {
    const auto id = Array<version2::MoveId>();
    const auto role = static_cast<uint8_t>(i % 4);
    const auto index = static_cast<uint16_t>(Number());
    const auto newest_version = static_cast<uint16_t>(2 + Number() % 5);
    const version2::Preamble frozen{.lowest = static_cast<uint16_t>(Number() % 3),
                                    .newest = newest_version,
                                    .role = static_cast<version2::Role>(role),
                                    .index = index,
                                    .move_id = id};
    const migration::Preamble newest{.lowest_version = frozen.lowest,
                                     .version = newest_version,
                                     .role = static_cast<migration::ChannelRole>(role),
                                     .index = index,
                                     .move_id = id};
    ASSERT_EQ(migration::EncodePreamble(newest), version2::Encode(frozen));
    ASSERT_EQ(migration::DecodePreamble(version2::Encode(frozen)).value(), newest);
    ASSERT_EQ(version2::DecodePreamble(migration::EncodePreamble(newest)).value(), frozen);
  }
}

TEST_F(Version2BytesTest, ProofsAreTheSame) {
  for (int i = 0; i < 1000; ++i) {
    const version2::Proof frozen{
        .epoch = Number(), .nonce = Array<version2::Bytes32>(), .digest = Array<version2::Bytes32>()};
    const migration::ChannelProof newest{.epoch = frozen.epoch, .source = frozen.nonce, .digest = frozen.digest};
    ASSERT_EQ(migration::EncodeProof(newest), version2::Encode(frozen));
    ASSERT_EQ(migration::DecodeProof(version2::Encode(frozen), {}), newest);
    ASSERT_EQ(version2::DecodeProof(migration::EncodeProof(newest)), frozen);
  }
  static_assert(migration::kChallengeBytes == sizeof(version2::Bytes32));
}

TEST_F(Version2BytesTest, PageHeadersAreTheSame) {
  for (int i = 0; i < 5000; ++i) {
    const auto type = static_cast<uint16_t>(1 + i % 5);
    const auto count = static_cast<uint32_t>(type == 1 ? 1 + Number() % 512 : std::max<uint32_t>(1, Number()));
    const version2::PageHeader frozen{.type = static_cast<version2::PageType>(type),
                                      .region = static_cast<uint16_t>(Number()),
                                      .first = Number(),
                                      .count = count};
    const migration::PageHeader newest{.type = static_cast<migration::PageFrameType>(type),
                                       .region = frozen.region,
                                       .first_page = frozen.first,
                                       .count = count};
    ASSERT_EQ(migration::EncodePageHeader(newest), version2::Encode(frozen));
    ASSERT_EQ(migration::DecodePageHeader(version2::Encode(frozen)).value(), newest);
    ASSERT_EQ(version2::DecodePageHeader(migration::EncodePageHeader(newest)).value(), frozen);
  }
}

TEST_F(Version2BytesTest, SumsAndFillerAreTheSame) {
  std::array<uint8_t, 5 * version2::kPage> pages = Array<std::array<uint8_t, 5 * version2::kPage>>();
  std::array<uint32_t, 5> sums;
  migration::SumPages(pages, sums);
  const Bytes frame = version2::PagesFrame(0, 0, pages);
  for (size_t i = 0; i < sums.size(); ++i) {
    EXPECT_EQ(sums[i], version2::Get(&frame[32 + 4 * i], 4));
  }
  for (size_t bytes = 0; bytes < 100; ++bytes) {
    EXPECT_EQ(migration::Crc32c(std::span(pages).first(bytes)), version2::Crc32c(std::span(pages).first(bytes)));
  }
  EXPECT_TRUE(std::ranges::equal(migration::LostFiller(), version2::LostFiller()));
}

// The two agree on a secret, and prove the same by it.
TEST_F(Version2BytesTest, SecretsAndDigestsAreTheSame) {
  for (const bool newest_is_source : {true, false}) {
    const auto exchange = migration::KeyExchange::Create(newest_is_source ? migration::KeyExchange::Side::kSource
                                                                          : migration::KeyExchange::Side::kDestination);
    ASSERT_TRUE(exchange.ok()) << exchange.status();
    const version2::Bytes32 private_key = version2::RandomBytes();
    version2::Greeting greeting{.move_id = Array<version2::MoveId>()};
    (newest_is_source ? greeting.source_key : greeting.destination_key) = exchange->key();
    (newest_is_source ? greeting.source_nonce : greeting.destination_nonce) = exchange->nonce();
    (newest_is_source ? greeting.destination_key : greeting.source_key) = version2::PublicKeyOf(private_key);
    (newest_is_source ? greeting.destination_nonce : greeting.source_nonce) = version2::RandomBytes();
    const auto newest =
        exchange->Agree(newest_is_source ? greeting.destination_key : greeting.source_key,
                        newest_is_source ? greeting.destination_nonce : greeting.source_nonce, greeting.move_id);
    ASSERT_TRUE(newest.ok()) << newest.status();
    const version2::Bytes32 frozen = version2::SecretOf(private_key, exchange->key(), greeting);
    for (uint8_t claim = 1; claim <= 6; ++claim) {
      const version2::Statement statement{.claim = static_cast<version2::Claim>(claim),
                                          .role = static_cast<version2::Role>(claim % 4),
                                          .index = static_cast<uint16_t>(Number()),
                                          .epoch = Number(),
                                          .source = Array<version2::Bytes32>(),
                                          .destination = Array<version2::Bytes32>()};
      EXPECT_EQ(newest
                    ->Prove({.claim = static_cast<migration::Claim>(claim),
                             .role = static_cast<uint8_t>(statement.role),
                             .index = statement.index,
                             .epoch = statement.epoch,
                             .source = statement.source,
                             .destination = statement.destination})
                    .value(),
                version2::DigestOf(frozen, statement));
    }
  }
}

TEST(Version2AgreesTest, NumbersMeanWhatTheyMeant) {
  EXPECT_LE(migration::kOurVersions.lowest, version2::kVersion) << "version 2 is spoken for good";
  EXPECT_GE(migration::kOurVersions.newest, version2::kVersion);
  EXPECT_EQ(migration::kFeaturePostcopy, version2::kPostcopy);
  EXPECT_EQ(migration::kFeaturePoison, version2::kPoisonedPages);
  EXPECT_EQ(migration::kFeatureRecovery, version2::kRecovery);
  EXPECT_EQ(migration::kFeatureMirror, version2::kMirroredDisks);
  EXPECT_EQ(migration::kFeatureResume, version2::kResumption);
  EXPECT_EQ(migration::kFeatureFewer, version2::kFewerChannels);
  EXPECT_EQ(migration::kMaxDataPages, version2::kMostDataPages);
  EXPECT_EQ(migration::kLastRound, version2::kLastRound);
  EXPECT_EQ(migration::kPlaced, version2::kPlaced);
  EXPECT_EQ(migration::kMaxRanges, version2::kMostRanges);
  EXPECT_EQ(migration::kMaxControlBytes, version2::kMostBytes);
  EXPECT_EQ(migration::kMaxGreetingBytes, version2::kMostBytesBeforeAccept);
  EXPECT_EQ(migration::kPackageVersion, 1u);
}

}  // namespace
}  // namespace ferrite
