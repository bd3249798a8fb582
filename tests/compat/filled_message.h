// Cap'n Proto messages with something else in every field, of whatever schema.
#ifndef FERRITE_TESTS_COMPAT_FILLED_MESSAGE_H_
#define FERRITE_TESTS_COMPAT_FILLED_MESSAGE_H_

#include <capnp/dynamic.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace ferrite {

// How many messages it takes for every member of the struct's union, and of those in its members.
inline uint32_t Variants(capnp::StructSchema schema) {
  uint32_t variants = 0;
  for (const auto field : schema.getUnionFields()) {
    variants += field.getType().isStruct() ? Variants(field.getType().asStruct()) : 1;
  }
  return std::max(variants, 1U);
}

class Filler {
 public:
  // With the `variant`th of the members of its union, and of those in its members.
  void Struct(capnp::DynamicStruct::Builder out, uint32_t variant) {
    for (const auto field : out.getSchema().getNonUnionFields()) {
      Field(out, field, 0);
    }
    for (const auto field : out.getSchema().getUnionFields()) {
      const uint32_t variants = field.getType().isStruct() ? Variants(field.getType().asStruct()) : 1;
      if (variant < variants) {
        Field(out, field, variant);
        return;
      }
      variant -= variants;
    }
  }

 private:
  void Field(capnp::DynamicStruct::Builder out, capnp::StructSchema::Field field, uint32_t variant) {
    const capnp::Type type = field.getType();
    if (type.isStruct()) {
      Struct(out.init(field).as<capnp::DynamicStruct>(), variant);
    } else if (type.isList()) {
      const capnp::Type element = type.asList().getElementType();
      const uint32_t size = element.isStruct() ? std::max(Variants(element.asStruct()), 2U) : 2;
      auto list = out.init(field, size).as<capnp::DynamicList>();
      for (uint32_t i = 0; i < size; ++i) {
        if (element.isStruct()) {
          Struct(list[i].as<capnp::DynamicStruct>(), i);
        } else {
          list.set(i, Number(~uint64_t{0}));
        }
      }
    } else if (type.isData()) {
      const std::array<uint8_t, 3> data = {next_++, next_++, next_++};
      out.set(field, capnp::Data::Reader(data.data(), data.size()));
    } else if (type.isText()) {
      out.set(field, capnp::Text::Reader(absl::StrCat("text", next_++).c_str()));
    } else if (type.isEnum()) {
      out.set(field, capnp::DynamicEnum(type.asEnum(), static_cast<uint16_t>(Number(0xffff))));
    } else if (type.isVoid()) {
      out.set(field, capnp::VOID);
    } else if (type.isBool()) {
      out.set(field, true);
    } else {
      out.set(field, Number(type.isUInt8()    ? 0xff
                            : type.isUInt16() ? 0xffff
                            : type.isUInt32() ? 0xffff'ffff
                                              : ~uint64_t{0}));
    }
  }

  // In every byte of the number another one, so that a part which is lost or moved shows.
  uint64_t Number(uint64_t mask) {
    return (uint64_t{0x0706'0504'0302'0100} + uint64_t{0x0101'0101'0101'0101} * next_++) & mask;
  }

  uint8_t next_ = 1;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_COMPAT_FILLED_MESSAGE_H_
