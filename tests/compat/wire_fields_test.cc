// docs/wire_fields.md has every field of the wire, with its type and its place, and nothing else.
#include <capnp/schema.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/lanes.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/stream.capnp.h"
#include "proto/machine.capnp.h"
#include "proto/state.capnp.h"

namespace ferrite {
namespace {

// --- The page ---

struct Row {
  std::string field;
  std::string place;  // "`UInt64` @3", or "offset, size"
};
// By the headings: "Messages", "Hello".
using Sections = std::map<std::string, std::map<std::string, std::vector<Row>>>;

Sections ReadPage() {
  Sections sections;
  std::ifstream in("docs/wire_fields.md");
  EXPECT_TRUE(in.good());
  std::string part;
  std::string section;
  for (std::string line; std::getline(in, line);) {
    absl::string_view text = line;
    if (absl::ConsumePrefix(&text, "### ")) {
      section = std::string(text);
      EXPECT_TRUE(sections[part].emplace(section, std::vector<Row>()).second) << part << ": " << section << " twice";
    } else if (absl::ConsumePrefix(&text, "## ")) {
      part = std::string(text);
    } else if (absl::StartsWith(text, "| `")) {
      const std::vector<std::string> cells = absl::StrSplit(text, '|');
      EXPECT_EQ(cells.size(), 7u) << line;
      for (size_t i = 1; i + 1 < cells.size(); ++i) {
        EXPECT_FALSE(absl::StripAsciiWhitespace(cells[i]).empty()) << "nothing is said: " << line;
      }
      const absl::string_view field = absl::StripAsciiWhitespace(cells[1]);
      sections[part][section].push_back(
          {std::string(field.substr(1, field.size() - 2)), std::string(absl::StripAsciiWhitespace(cells[2]))});
    }
  }
  return sections;
}

// --- Schemas ---

std::string NameOf(capnp::Type type) {
  if (type.isList()) {
    return absl::StrCat("List(", NameOf(type.asList().getElementType()), ")");
  }
  const auto last = [](capnp::Schema schema) {
    return std::vector<std::string>(absl::StrSplit(schema.getShortDisplayName().cStr(), '.')).back();
  };
  switch (type.which()) {
    case capnp::schema::Type::VOID:
      return "Void";
    case capnp::schema::Type::BOOL:
      return "Bool";
    case capnp::schema::Type::UINT8:
      return "UInt8";
    case capnp::schema::Type::UINT16:
      return "UInt16";
    case capnp::schema::Type::UINT32:
      return "UInt32";
    case capnp::schema::Type::UINT64:
      return "UInt64";
    case capnp::schema::Type::TEXT:
      return "Text";
    case capnp::schema::Type::DATA:
      return "Data";
    case capnp::schema::Type::STRUCT:
      return last(type.asStruct());
    case capnp::schema::Type::ENUM:
      return last(type.asEnum());
    default:
      return "a type that this test does not know";
  }
}

// "Hello.moveId `Data` @0", of all that can be reached from the schema.
class Reached {
 public:
  explicit Reached(capnp::StructSchema root) { Add(root); }
  const std::set<std::string>& fields() const { return fields_; }

 private:
  void Add(capnp::Type type) {
    if (type.isList()) {
      Add(type.asList().getElementType());
    } else if (type.isStruct()) {
      Add(type.asStruct());
    } else if (type.isEnum()) {
      for (const auto value : type.asEnum().getEnumerants()) {
        fields_.insert(
            absl::StrCat(Title(type.asEnum()), ".", value.getProto().getName().cStr(), " @", value.getOrdinal()));
      }
    }
  }
  void Add(capnp::StructSchema schema) {
    if (!seen_.insert(schema.getProto().getId()).second) {
      return;
    }
    for (const auto field : schema.getFields()) {
      const auto proto = field.getProto();
      fields_.insert(absl::StrCat(Title(schema), ".", proto.getName().cStr(), " `", NameOf(field.getType()), "` @",
                                  proto.getOrdinal().getExplicit()));
      Add(field.getType());
    }
  }
  // "Region.Kind"
  static std::string Title(capnp::Schema schema) {
    const std::string file_and_name = schema.getProto().getDisplayName().cStr();
    return file_and_name.substr(file_and_name.find(':') + 1);
  }

  std::set<uint64_t> seen_;
  std::set<std::string> fields_;
};

std::set<std::string> OnPage(const Sections& page, const std::string& part) {
  std::set<std::string> fields;
  const auto found = page.find(part);
  EXPECT_NE(found, page.end()) << part;
  for (const auto& [section, rows] : found->second) {
    EXPECT_FALSE(rows.empty()) << section << " has no fields";
    for (const Row& row : rows) {
      EXPECT_TRUE(fields.insert(absl::StrCat(section, ".", row.field, " ", row.place)).second)
          << section << "." << row.field << " is there twice";
    }
  }
  return fields;
}

void ExpectSame(const std::set<std::string>& on_page, const std::set<std::string>& in_code) {
  std::vector<std::string> missing;
  std::vector<std::string> gone;
  std::ranges::set_difference(in_code, on_page, std::back_inserter(missing));
  std::ranges::set_difference(on_page, in_code, std::back_inserter(gone));
  EXPECT_TRUE(missing.empty()) << "docs/wire_fields.md does not have: " << absl::StrJoin(missing, "; ");
  EXPECT_TRUE(gone.empty()) << "only docs/wire_fields.md has: " << absl::StrJoin(gone, "; ");
}

TEST(WireFieldsTest, EveryFieldOfAMessageIsThere) {
  const Reached reached(capnp::Schema::from<stream::Control>());
  EXPECT_GT(reached.fields().size(), 100u);
  ExpectSame(OnPage(ReadPage(), "Messages"), reached.fields());
}

TEST(WireFieldsTest, EveryFieldOfADescriptionIsThere) {
  const Reached reached(capnp::Schema::from<state::MachineDescription>());
  EXPECT_GT(reached.fields().size(), 30u);
  ExpectSame(OnPage(ReadPage(), "The description of a machine"), reached.fields());
}

TEST(WireFieldsTest, EveryFieldOfAStateIsThere) {
  const Reached reached(capnp::Schema::from<state::Machine>());
  EXPECT_GT(reached.fields().size(), 80u);
  ExpectSame(OnPage(ReadPage(), "The state of a machine"), reached.fields());
}

// --- Headers ---

using Bytes = std::vector<uint8_t>;

template <typename T>
Bytes BytesOf(const T& array) {
  return {array.begin(), array.end()};
}

struct Place {
  size_t offset = 0;
  size_t size = 0;
};

// A header as the code writes it: what it is without anything, and with all bits of one field, by the fields' names.
// Of those in `partly` not all bits can be set.
struct Header {
  const char* name;
  Bytes empty;
  std::map<std::string, Bytes> with;
  std::set<std::string> fixed;   // fields that nobody chooses
  std::set<std::string> follow;  // of those, what changes with the others
  std::set<std::string> partly;
};

class HeadersTest : public testing::Test {
 protected:
  // The rows of that section, in their order; they cover `bytes` bytes, each once.
  std::vector<std::pair<std::string, Place>> Rows(const std::string& section, size_t bytes) {
    std::vector<std::pair<std::string, Place>> rows;
    size_t next = 0;
    for (const Row& row : page_["Headers"][section]) {
      const std::vector<std::string> numbers = absl::StrSplit(row.place, ", ");
      Place place;
      EXPECT_TRUE(numbers.size() == 2 && absl::SimpleAtoi(numbers[0], &place.offset) &&
                  absl::SimpleAtoi(numbers[1], &place.size))
          << section << "." << row.field << ": " << row.place;
      EXPECT_EQ(place.offset, next) << section << "." << row.field;
      next = place.offset + place.size;
      rows.emplace_back(row.field, place);
    }
    EXPECT_EQ(next, bytes) << section;
    seen_.insert(section);
    return rows;
  }

  void Expect(const Header& header) {
    SCOPED_TRACE(header.name);
    std::map<std::string, Place> places;
    std::set<std::string> names;
    for (const auto& [field, place] : Rows(header.name, header.empty.size())) {
      names.insert(field);
      if (field != "reserved") {
        EXPECT_TRUE(places.emplace(field, place).second) << field << " is there twice";
        continue;
      }
      EXPECT_TRUE(std::all_of(header.empty.begin() + static_cast<std::ptrdiff_t>(place.offset),
                              header.empty.begin() + static_cast<std::ptrdiff_t>(place.offset + place.size),
                              [](uint8_t byte) { return byte == 0; }));
    }
    std::set<std::string> expected = header.fixed;
    for (const auto& [field, bytes] : header.with) {
      expected.insert(field);
      for (size_t i = 0; i < bytes.size(); ++i) {
        const auto owner = std::ranges::find_if(places, [i](const auto& entry) {
          return entry.second.offset <= i && i < entry.second.offset + entry.second.size;
        });
        const std::string of = owner != places.end() ? owner->first : "reserved";
        const bool changed = bytes[i] != header.empty[i];
        EXPECT_TRUE(!changed || of == field || header.follow.contains(of))
            << field << " changes byte " << i << ", of " << of;
        EXPECT_TRUE(changed || of != field || header.partly.contains(field)) << field << " does not change byte " << i;
      }
      EXPECT_NE(bytes, header.empty) << field;
    }
    EXPECT_EQ(names, expected);
  }

  Sections page_ = ReadPage();
  std::set<std::string> seen_;
};

TEST_F(HeadersTest, EveryByteOfAHeaderIsThere) {
  constexpr auto kOnes16 = uint16_t{0xffff};
  migration::MoveId id;
  id.fill(0xff);
  migration::Nonce nonce;
  nonce.fill(0xff);
  {
    using migration::EncodePreamble;
    using migration::Preamble;
    Expect({.name = "Preamble",
            .empty = BytesOf(EncodePreamble({})),
            .with = {{"lowest", BytesOf(EncodePreamble({.lowest_version = kOnes16}))},
                     {"newest", BytesOf(EncodePreamble({.version = kOnes16}))},
                     {"role", BytesOf(EncodePreamble({.role = migration::ChannelRole::kRecover}))},
                     {"lanes", BytesOf(EncodePreamble({.lanes = true}))},
                     {"index", BytesOf(EncodePreamble({.index = kOnes16}))},
                     {"moveId", BytesOf(EncodePreamble({.move_id = id}))}},
            .fixed = {"magic"}});
  }
  {
    using migration::EncodeProof;
    Expect({.name = "Proof",
            .empty = BytesOf(EncodeProof({})),
            .with = {{"epoch", BytesOf(EncodeProof({.epoch = ~uint64_t{0}}))},
                     {"nonce", BytesOf(EncodeProof({.source = nonce}))},
                     {"digest", BytesOf(EncodeProof({.digest = nonce}))}}});
  }
  {
    const auto header = [](const migration::Message& message) {
      Bytes frame = migration::Encode(message);
      frame.resize(migration::kControlHeaderBytes);
      return frame;
    };
    // The payload's length is what a longer reason makes it.
    Expect({.name = "Control header",
            .empty = header(migration::message::Refuse{.reason = ""}),
            .with = {{"length", header(migration::message::Refuse{.reason = std::string(1000, 'x')})}},
            .fixed = {"mark", "payloadCrc", "crc"},
            .follow = {"payloadCrc", "crc"},
            .partly = {"length"}});
  }
  {
    using migration::EncodePageHeader;
    using migration::PageFrameType;
    const auto kind = PageFrameType::kZero;
    Expect({.name = "Page header",
            .empty = BytesOf(EncodePageHeader({.type = kind})),
            .with = {{"type", BytesOf(EncodePageHeader({.type = PageFrameType::kRequest}))},
                     {"bytes", BytesOf(EncodePageHeader({.type = kind, .bytes = migration::PageBytes::kReadable}))},
                     {"region", BytesOf(EncodePageHeader({.type = kind, .region = kOnes16}))},
                     {"first", BytesOf(EncodePageHeader({.type = kind, .first_page = ~uint64_t{0}}))},
                     {"count", BytesOf(EncodePageHeader({.type = kind, .count = ~uint32_t{0}}))}},
            .fixed = {"reserved", "length", "crc"},
            .follow = {"crc"},
            .partly = {"type", "bytes"}});
    // What follows pages of data is said where the page says so.
    const Bytes pages = BytesOf(EncodePageHeader({.type = PageFrameType::kPages, .count = 1}));
    for (const auto& [field, place] : Rows("Page header", pages.size())) {
      if (field == "length") {
        EXPECT_EQ(pages[place.offset] | pages[place.offset + 1] << 8, 4100);
      }
    }
  }
  {
    using migration::EncodeLanes;
    migration::LaneToken token;
    token.fill(0xff);
    Expect({.name = "Lanes",
            .empty = BytesOf(EncodeLanes({})),
            .with = {{"port", BytesOf(EncodeLanes({.port = kOnes16}))},
                     {"token", BytesOf(EncodeLanes({.token = token}))},
                     {"reason", BytesOf(EncodeLanes({.reason = std::string(1000, 'x')}))}},
            .fixed = {"reserved", "reasonLength", "crc"},
            .follow = {"reasonLength", "crc"}});
  }
  {
    using migration::EncodeRemoteKey;
    Expect({.name = "Remote key",
            .empty = BytesOf(EncodeRemoteKey({.given = true})),
            .with = {{"address", BytesOf(EncodeRemoteKey({.given = true, .address = ~uint64_t{0}}))},
                     {"key", BytesOf(EncodeRemoteKey({.given = true, .key = ~uint32_t{0}}))},
                     {"given", BytesOf(EncodeRemoteKey({}))}},
            .partly = {"given"}});
  }
  EXPECT_EQ(Rows("Challenge", migration::kChallengeBytes).size(), 1u);
  EXPECT_EQ(Rows("Page sum", migration::PageHeader{.count = 1}.sum_bytes()).size(), 1u);
  EXPECT_EQ(Rows("Placed", sizeof(migration::kPlaced)).size(), 1u);
  for (const auto& [section, rows] : page_["Headers"]) {
    EXPECT_TRUE(seen_.contains(section)) << section << " is no header that this test knows";
  }
  EXPECT_EQ(page_.size(), 4u) << "parts of the page";
}

// What has to be refused: something that the page says is 0, and is not.
TEST_F(HeadersTest, WhatIsNeitherOfTheTwoIsRefused) {
  const auto control = migration::EncodePreamble({.lowest_version = 2, .version = 2});
  const auto pages =
      migration::EncodePreamble({.lowest_version = 2, .version = 2, .role = migration::ChannelRole::kPage});
  ASSERT_TRUE(migration::DecodePreamble(control).ok());
  ASSERT_TRUE(migration::DecodePreamble(pages).ok());
  for (const auto& [field, place] : Rows("Preamble", control.size())) {
    if (field == "lanes") {
      auto wrong = control;
      wrong[place.offset] = 1;
      EXPECT_FALSE(migration::DecodePreamble(wrong).ok()) << "a control connection has none";
      wrong = pages;
      wrong[place.offset] = 2;
      EXPECT_FALSE(migration::DecodePreamble(wrong).ok());
    }
  }
}

}  // namespace
}  // namespace ferrite
