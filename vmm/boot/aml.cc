#include "vmm/boot/aml.h"

#include <cstdlib>
#include <string>

#include "base/status.h"

namespace ferrite::aml {
namespace {

constexpr uint8_t kNameOp = 0x08;
constexpr uint8_t kBytePrefix = 0x0a;
constexpr uint8_t kWordPrefix = 0x0b;
constexpr uint8_t kDWordPrefix = 0x0c;
constexpr uint8_t kStringPrefix = 0x0d;
constexpr uint8_t kQWordPrefix = 0x0e;
constexpr uint8_t kScopeOp = 0x10;
constexpr uint8_t kBufferOp = 0x11;
constexpr uint8_t kPackageOp = 0x12;
constexpr uint8_t kExtOpPrefix = 0x5b;
constexpr uint8_t kDeviceOp = 0x82;
constexpr size_t kNameSegmentBytes = 4;

void Append(Bytes& to, const Bytes& bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

void AppendLittleEndian(Bytes& to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) {
    to.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
}

Bytes NameString(absl::string_view name) {
  Bytes result;
  if (!name.empty() && name.front() == '\\') {
    result.push_back('\\');
    name.remove_prefix(1);
  }
  FERRITE_CHECK(!name.empty() && name.size() <= kNameSegmentBytes);
  std::string segment(name);
  segment.resize(kNameSegmentBytes, '_');
  result.insert(result.end(), segment.begin(), segment.end());
  return result;
}

// PkgLength (20.2.4) and what it counts, itself included: one byte up to 63, else the low four bits in the lead byte
// and up to three bytes more.
Bytes WithPackageLength(const Bytes& contents) {
  Bytes result;
  if (contents.size() + 1 < 0x40) {
    result.push_back(static_cast<uint8_t>(contents.size() + 1));
  } else {
    int more = 1;
    while (contents.size() + 1 + more >= (size_t{1} << (4 + 8 * more))) {
      ++more;
    }
    FERRITE_CHECK(more <= 3);
    const uint64_t length = contents.size() + 1 + more;
    result.push_back(static_cast<uint8_t>((more << 6) | (length & 0xf)));
    AppendLittleEndian(result, length >> 4, more);
  }
  Append(result, contents);
  return result;
}

Bytes Named(const Bytes& opcode, absl::string_view name, const std::vector<Bytes>& children) {
  Bytes contents = NameString(name);
  for (const Bytes& child : children) {
    Append(contents, child);
  }
  Bytes result = opcode;
  Append(result, WithPackageLength(contents));
  return result;
}

}  // namespace

Bytes Integer(uint64_t value) {
  if (value <= 1) {
    return {static_cast<uint8_t>(value)};  // ZeroOp and OneOp
  }
  Bytes result;
  if (value <= UINT8_MAX) {
    result.push_back(kBytePrefix);
    AppendLittleEndian(result, value, 1);
  } else if (value <= UINT16_MAX) {
    result.push_back(kWordPrefix);
    AppendLittleEndian(result, value, 2);
  } else if (value <= UINT32_MAX) {
    result.push_back(kDWordPrefix);
    AppendLittleEndian(result, value, 4);
  } else {
    result.push_back(kQWordPrefix);
    AppendLittleEndian(result, value, 8);
  }
  return result;
}

Bytes String(absl::string_view text) {
  Bytes result = {kStringPrefix};
  result.insert(result.end(), text.begin(), text.end());
  result.push_back(0);
  return result;
}

Bytes EisaId(absl::string_view id) {
  FERRITE_CHECK(id.size() == 7);
  // Letters in five bits each, then the digits; the whole is big-endian in a little-endian integer (19.3.4).
  uint16_t letters = 0;
  for (int i = 0; i < 3; ++i) {
    letters = static_cast<uint16_t>((letters << 5) | ((id[i] - 0x40) & 0x1f));
  }
  const auto digits = static_cast<uint16_t>(std::strtoul(std::string(id.substr(3)).c_str(), nullptr, 16));
  return {kDWordPrefix, static_cast<uint8_t>(letters >> 8), static_cast<uint8_t>(letters),
          static_cast<uint8_t>(digits >> 8), static_cast<uint8_t>(digits)};
}

Bytes Package(const std::vector<Bytes>& elements) {
  FERRITE_CHECK(elements.size() <= UINT8_MAX);
  Bytes contents = {static_cast<uint8_t>(elements.size())};
  for (const Bytes& element : elements) {
    Append(contents, element);
  }
  Bytes result = {kPackageOp};
  Append(result, WithPackageLength(contents));
  return result;
}

Bytes Name(absl::string_view name, const Bytes& value) {
  Bytes result = {kNameOp};
  Append(result, NameString(name));
  Append(result, value);
  return result;
}

Bytes Scope(absl::string_view name, const std::vector<Bytes>& children) { return Named({kScopeOp}, name, children); }

Bytes Device(absl::string_view name, const std::vector<Bytes>& children) {
  return Named({kExtOpPrefix, kDeviceOp}, name, children);
}

Bytes ResourceTemplate(const std::vector<Bytes>& descriptors) {
  Bytes resources;
  for (const Bytes& descriptor : descriptors) {
    Append(resources, descriptor);
  }
  // End tag; a checksum of zero counts as right (6.4.2.9).
  Append(resources, {0x79, 0});
  Bytes contents = Integer(resources.size());
  Append(contents, resources);
  Bytes result = {kBufferOp};
  Append(result, WithPackageLength(contents));
  return result;
}

Bytes IoPorts(uint16_t port, uint8_t count) {
  Bytes result = {0x47, 1};  // 6.4.2.5; 16-bit decode
  AppendLittleEndian(result, port, 2);
  AppendLittleEndian(result, port, 2);
  result.push_back(1);
  result.push_back(count);
  return result;
}

Bytes IsaInterrupt(uint8_t irq) {
  FERRITE_CHECK(irq < 16);
  Bytes result = {0x22};  // 6.4.2.1 without flags
  AppendLittleEndian(result, uint64_t{1} << irq, 2);
  return result;
}

Bytes Memory32Fixed(uint32_t base, uint32_t bytes) {
  Bytes result = {0x86, 9, 0, 1};  // 6.4.3.4; writable
  AppendLittleEndian(result, base, 4);
  AppendLittleEndian(result, bytes, 4);
  return result;
}

Bytes ExtendedInterrupt(uint32_t gsi) {
  Bytes result = {0x89, 6, 0, 0x03, 1};  // 6.4.3.6; consumer, edge, one interrupt
  AppendLittleEndian(result, gsi, 4);
  return result;
}

}  // namespace ferrite::aml
