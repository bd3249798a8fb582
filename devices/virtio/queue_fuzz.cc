// Lets the input be the driver: queue addresses, features, and the memory that holds the rings. Whatever it says, every
// segment lies in RAM and every bound of the queue holds.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "devices/virtio/queue.h"
#include "memory/guest_memory.h"

namespace ferrite::virtio {
namespace {

constexpr uint64_t kMemoryBytes = 64 << 10;
constexpr uint16_t kMaxSize = 64;

GuestMemory& Memory() {
  static GuestMemory& memory = *GuestMemory::Create(kMemoryBytes, MemoryBacking::kAnonymous)->release();
  return memory;
}

bool InRam(std::span<const uint8_t> bytes) {
  const std::span<uint8_t> ram = Memory().regions()[0]->guest_mapping();
  return bytes.data() >= ram.data() && bytes.data() + bytes.size() <= ram.data() + ram.size();
}

void CheckChain(const Chain& chain, uint16_t queue_size) {
  FERRITE_CHECK(chain.readable().size() + chain.writable().size() <= queue_size);
  FERRITE_CHECK(!chain.readable().empty() || !chain.writable().empty());
  uint64_t readable = 0, writable = 0;
  for (const auto& segment : chain.readable()) {
    FERRITE_CHECK(InRam(segment) && !segment.empty());
    readable += segment.size();
  }
  for (const auto& segment : chain.writable()) {
    FERRITE_CHECK(InRam(segment.bytes) && !segment.bytes.empty());
    writable += segment.bytes.size();
  }
  FERRITE_CHECK(readable == chain.readable_bytes() && writable == chain.writable_bytes());
  FERRITE_CHECK(readable + writable <= kMaxChainBytes);
  std::vector<uint8_t> copy(std::min<uint64_t>(readable, 512));
  FERRITE_CHECK(chain.Read(readable - copy.size(), copy).ok());
  copy.resize(copy.size() + 1);
  FERRITE_CHECK(!chain.Read(readable - copy.size() + 1, copy).ok());
  // May overwrite the rings: the guest could, too.
  copy.resize(std::min<uint64_t>(writable, copy.size()));
  FERRITE_CHECK(chain.Write(writable - copy.size(), copy).ok());
}

}  // namespace
}  // namespace ferrite::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferrite;          // NOLINT
  using namespace ferrite::virtio;  // NOLINT
  // Four bytes choose the queue; the rest is memory from address 0.
  if (size < 4) {
    return 0;
  }
  const bool event_index = (data[0] & 1) != 0;
  const bool indirect = (data[0] & 2) != 0;
  QueueAddresses addresses;
  addresses.size = static_cast<uint16_t>(1u << (data[0] >> 2 & 7));
  addresses.descriptors = GuestAddress(data[1] * uint64_t{16});
  addresses.available = GuestAddress(data[2] * uint64_t{16});
  addresses.used = GuestAddress(data[3] * uint64_t{256});
  GuestMemory& memory = Memory();
  FERRITE_CHECK(memory.Fill(GuestAddress(0), 0, kMemoryBytes).ok());
  FERRITE_CHECK(memory.Write(GuestAddress(0), {data + 4, std::min<size_t>(size - 4, kMemoryBytes)}).ok());

  Queue queue(memory, kMaxSize);
  const bool valid = queue.Check(addresses).ok();
  FERRITE_CHECK(queue.Enable(addresses, event_index, indirect).ok() == valid);
  if (!valid) {
    return 0;
  }
  std::vector<uint16_t> in_flight;
  for (int i = 0; i < 200; ++i) {
    queue.DisableNotifications();
    // After an error the next one may be an honest chain; the queue has to bear being asked.
    const auto chain = queue.Pop();
    const bool popped = chain.ok() && chain->has_value();
    if (popped) {
      CheckChain(**chain, queue.size());
      in_flight.push_back((*chain)->head());
    }
    FERRITE_CHECK(queue.in_flight() == in_flight.size() && in_flight.size() <= queue.size());
    if (!in_flight.empty() && (i % 3 != 0 || !popped)) {
      queue.Push(in_flight.back(), i);
      in_flight.pop_back();
      queue.TakeInterruptNeeded();
    }
    queue.EnableNotifications();
    FERRITE_CHECK(Queue::CheckProgress(queue.size(), queue.progress()).ok());
  }
  return 0;
}
