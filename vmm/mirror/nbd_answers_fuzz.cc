// What an NBD server says is the input: from the first byte, or after a handshake with facts out of the input. Each
// operation ends, whatever it is.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/status.h"
#include "vmm/mirror/block_driver.h"
#include "vmm/mirror/nbd_blocks.h"
#include "vmm/mirror/nbd_export.h"
#include "vmm/mirror/scripted_nbd_server.h"

namespace ferrite {
namespace {

using Kind = migration::BlockOperation::Kind;

constexpr uint32_t kDepth = 3;

// Numbers out of the input; zeroes when it has run out.
class Source {
 public:
  Source(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t Byte() { return empty() ? 0 : data_[at_++]; }
  uint64_t Number(int bytes) {
    uint64_t number = 0;
    for (int i = 0; i < bytes; ++i) {
      number = number << 8 | Byte();
    }
    return number;
  }
  // A power of two or anything, small or not.
  uint32_t Size() { return Byte() % 4 != 0 ? uint32_t{1} << (Byte() % 32) : static_cast<uint32_t>(Number(4)); }
  std::string Text(size_t most) {
    std::string text;
    while (!empty() && text.size() < most) {
      text.push_back(static_cast<char>(Byte()));
    }
    return text;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

NbdAnswer Answer(Source& source, const NbdRequest& asked) {
  if (source.empty()) {
    return {.bytes = "", .last = true};
  }
  NbdRequest request = asked;
  if (source.Byte() % 16 == 0) {
    request.cookie = source.Number(8);
  }
  const std::string data(request.type == NbdRequest::kRead ? request.bytes : 0, 'x');
  switch (source.Byte() % 6) {
    case 0:
      return {ScriptedNbdServer::Reply(request, 0, data)};
    case 1:
      return {ScriptedNbdServer::Reply(request, static_cast<uint32_t>(source.Number(1 + source.Byte() % 4)))};
    case 2:
      // What may be a part of something is the last, or the client waits for the rest of it.
      return {.bytes = source.Text(1 + source.Byte() % 64), .last = true};
    case 3: {
      // All of it in one chunk, as it should be.
      const std::string body = NbdBytes().Add(request.offset).Text(data).bytes();
      return {request.type == NbdRequest::kRead ? ScriptedNbdServer::Chunk(request, 1, 1, body)
                                                : ScriptedNbdServer::Chunk(request, 1, 0, "")};
    }
    default: {
      std::string chunks;
      const int count = 1 + source.Byte() % 4;
      for (int i = 0; i < count; ++i) {
        const auto flags = static_cast<uint16_t>(source.Byte() % 4);
        static constexpr uint16_t kTypes[] = {0, 1, 2, 5, 0x8001, 0x8002, 0x7fff, 6};
        const uint16_t type = kTypes[source.Byte() % 8];
        const std::string body =
            source.Byte() % 2 == 0
                ? source.Text(source.Byte())
                : NbdBytes().Add(request.offset + source.Byte() % 3 * 512).Text(source.Text(source.Byte())).bytes();
        chunks += ScriptedNbdServer::Chunk(request, flags, type, body);
      }
      const bool last = source.Byte() % 2 == 0;
      return {.bytes = chunks + (last ? "" : ScriptedNbdServer::Chunk(request, 1, 0, "")), .last = last};
    }
  }
}

void Use(EventLoop& loop, std::unique_ptr<NbdExport> nbd) {
  const NbdExport::Facts facts = nbd->facts();
  const uint64_t block = facts.block_bytes;
  FERRITE_CHECK((block & (block - 1)) == 0 && block <= 64 << 10);
  FERRITE_CHECK((facts.preferred_bytes & (facts.preferred_bytes - 1)) == 0 && facts.preferred_bytes >= block &&
                facts.preferred_bytes <= 64 << 20);
  FERRITE_CHECK(facts.most_bytes >= block && facts.most_bytes <= 32 << 20 && facts.most_bytes % block == 0);
  if (facts.bytes < 4 * block) {
    return;
  }
  const auto blocks = MakeNbdBlocks("fuzz", std::move(nbd), kDepth);
  BlockDriver driver(loop, *blocks);
  std::string data(4 * block, 'a');
  std::vector<migration::BlockOperation> operations = {
      BlockDriver::Make(Kind::kWrite, 0, 2 * block, &data),
      BlockDriver::Make(Kind::kRead, block, 2 * block, &data),
      BlockDriver::Make(Kind::kWriteZeroes, 0, 4 * block),
      BlockDriver::Make(Kind::kDiscard, 0, block),
      BlockDriver::Make(Kind::kFlush, 0, 0),
      BlockDriver::Make(Kind::kRead, 0, 4 * block, &data),
      BlockDriver::Make(Kind::kWriteZeroes, block, 2 * block),
  };
  std::vector<migration::BlockOperation*> pointers;
  for (auto& operation : operations) {
    pointers.push_back(&operation);
  }
  driver.Start(pointers);
  FERRITE_CHECK(driver.Await());
}

EventLoop& Loop() {
  static EventLoop& loop = *EventLoop::Create("fuzz-loop")->release();
  return loop;
}

}  // namespace
}  // namespace ferrite

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using ferrite::NbdExport;
  ferrite::Source source(data, size);
  ferrite::NbdScript script;
  const uint8_t how = source.Byte();
  if (how % 4 == 0) {
    script.raw = how % 8 == 0 ? source.Text(size) : "NBDMAGICIHAVEOPT" + source.Text(size);
    script.raw += '\0';
  } else {
    script.structured = how % 4 != 1;
    script.bytes = source.Byte() % 4 == 0 ? source.Number(8) : 512 * source.Number(3);
    script.flags = static_cast<uint16_t>(source.Byte() % 4 == 0 ? source.Number(2) : ferrite::NbdScript::kAllFlags);
    script.has_block_sizes = source.Byte() % 2 == 0;
    if (script.has_block_sizes && source.Byte() % 2 == 0) {
      script.least = source.Size();
      script.preferred = source.Size();
      script.most = source.Size();
    }
    script.answer = [&source](const ferrite::NbdRequest& request) { return ferrite::Answer(source, request); };
  }
  ferrite::ScriptedNbdServer server(std::move(script));
  auto nbd = NbdExport::ConnectTo(server.client(), "fuzz", ferrite::Loop(),
                                  {.depth = ferrite::kDepth, .patience = absl::Seconds(1)});
  if (nbd.ok()) {
    ferrite::Use(ferrite::Loop(), *std::move(nbd));
  } else {
    FERRITE_CHECK(!absl::IsDeadlineExceeded(nbd.status()));
  }
  return 0;
}
