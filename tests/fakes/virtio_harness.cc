#include "tests/fakes/virtio_harness.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace ferrite {
namespace {

std::unique_ptr<GuestMemory> MakeMemory(uint64_t bytes, MemoryBacking backing) {
  auto memory = GuestMemory::Create(bytes, backing);
  FERRITE_CHECK(memory.ok());
  return *std::move(memory);
}

}  // namespace

VirtioHarness::VirtioHarness(uint64_t memory_bytes, EventLoop* loop, MemoryBacking backing)
    : memory_(MakeMemory(memory_bytes, backing)),
      arena_(*memory_, GuestAddress(0x10000), GuestAddress(memory_bytes / 2)),
      loop_(loop != nullptr ? *loop : fake_loop_) {}

VirtioHarness::~VirtioHarness() {
  if (transport_ != nullptr) {
    transport_->Quiesce();
  }
}

void VirtioHarness::Attach(std::unique_ptr<virtio::Device> device) {
  if (transport_ != nullptr) {
    transport_->Quiesce();
    transport_.reset();
  }
  auto transport = virtio::MmioTransport::Create(std::move(device), *memory_, interrupt_, loop_);
  FERRITE_CHECK(transport.ok());
  transport_ = *std::move(transport);
  driver_.emplace(*transport_);
  transport_->Resume();
}

void VirtioHarness::Start(uint64_t features, uint16_t queue_size) {
  driver_->Reset();
  FERRITE_CHECK(driver_->Negotiate(features));
  queues_.clear();
  const auto sizes = transport_->device().queue_sizes();
  for (uint16_t i = 0; i < sizes.size(); ++i) {
    queues_.push_back(std::make_unique<QueueDriver>(arena_, std::min(queue_size, sizes[i]),
                                                    (features & virtio::kFeatureEventIndex) != 0));
    FERRITE_CHECK(driver_->SetUpQueue(i, queues_[i]->addresses()));
  }
  driver_->SetDriverOk();
}

void VirtioHarness::Kick(uint16_t index) {
  driver_->Notify(index);
  fake_loop_.RunReady();
}

}  // namespace ferrite
