// A control frame's header of a length that nothing sends.
#ifndef FERRITE_TESTS_FAKES_CONTROL_HEADER_H_
#define FERRITE_TESTS_FAKES_CONTROL_HEADER_H_

#include <capnp/message.h>

#include <cstdint>
#include <span>
#include <vector>

#include "migration/protocol/control_frame.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/endian.h"

namespace ferrite::migration {

// Announces `length` bytes, with a checksum that fits.
inline std::vector<uint8_t> ControlHeaderOf(uint32_t length) {
  capnp::MallocMessageBuilder message;
  message.initRoot<stream::Control>().initPing();
  std::vector<uint8_t> header = EncodeControl(message);
  header.resize(kControlHeaderBytes);
  PutLittle<uint32_t>(&header[4], length);
  PutLittle<uint32_t>(&header[12], Crc32c(std::span<const uint8_t>(header).first(12)));
  return header;
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_CONTROL_HEADER_H_
