// One virtio device with everything around it faked: guest memory, transport, interrupt, event loop and driver.
#ifndef FERRITE_TESTS_FAKES_VIRTIO_HARNESS_H_
#define FERRITE_TESTS_FAKES_VIRTIO_HARNESS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "devices/virtio/device.h"
#include "devices/virtio/mmio_transport.h"
#include "memory/guest_memory.h"
#include "tests/fakes/fake_event_loop.h"
#include "tests/fakes/fake_interrupt_line.h"
#include "tests/fakes/mmio_driver.h"
#include "tests/fakes/queue_driver.h"

namespace ferrite {

// Threads: the test's.
//
//   VirtioHarness harness;
//   harness.Attach(std::make_unique<Rng>(...));   // a transport, resumed
//   harness.Start(harness.driver().OfferedFeatures());
//   harness.queue(0).Chain().Writable(64).Submit();
//   harness.Kick(0);
//   EXPECT_EQ(harness.queue(0).TakeUsed()->written, 64);
class VirtioHarness {
 public:
  // Rings and buffers live in the lower half of guest memory; the upper half is the test's. With a `loop` the device's
  // work runs there (a real EventLoop on its thread), and Kick() only rings.
  explicit VirtioHarness(uint64_t memory_bytes = uint64_t{16} << 20, EventLoop* loop = nullptr,
                         MemoryBacking backing = MemoryBacking::kMemfd);
  // Quiesces the transport first.
  ~VirtioHarness();

  // Puts `device` behind a transport and resumes it; a device that was attached before is quiesced and destroyed.
  void Attach(std::unique_ptr<virtio::Device> device);
  // Resets the device, negotiates `features` and sets up every queue with `queue_size` (or the largest, when smaller)
  // and DRIVER_OK. Aborts the test when the device refuses.
  void Start(uint64_t features, uint16_t queue_size = 64);
  // Rings the queue's doorbell and runs the fake loop until nothing is left to do.
  void Kick(uint16_t index);

  GuestMemory& memory() { return *memory_; }
  GuestArena& arena() { return arena_; }
  FakeInterruptLine& interrupt() { return interrupt_; }
  FakeEventLoop& loop() { return fake_loop_; }
  virtio::MmioTransport& transport() { return *transport_; }
  MmioDriver& driver() { return *driver_; }
  QueueDriver& queue(uint16_t index) { return *queues_.at(index); }

 private:
  std::unique_ptr<GuestMemory> memory_;
  GuestArena arena_;
  FakeInterruptLine interrupt_;
  FakeEventLoop fake_loop_;
  EventLoop& loop_;
  std::unique_ptr<virtio::MmioTransport> transport_;
  std::optional<MmioDriver> driver_;
  std::vector<std::unique_ptr<QueueDriver>> queues_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_VIRTIO_HARNESS_H_
