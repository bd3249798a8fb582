#include "base/patient_memory.h"

#include <sys/mman.h>

#include <new>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status.h"

namespace ferrite {
namespace {

// Of addresses: nobody touches it, so it is no memory. More than what comes of all that is done before somebody looks
// at the signal.
constexpr size_t kKept = size_t{4} << 20;
constexpr absl::Duration kPause = absl::Milliseconds(10);

thread_local PatientMemory* patient = nullptr;

}  // namespace

PatientMemory::PatientMemory(const EventFd& spent) : spent_(spent) {
  FERRITE_CHECK(patient == nullptr);
  (void)std::set_new_handler(&PatientMemory::OnFailure);
  (void)Refill();
  patient = this;
}

PatientMemory::~PatientMemory() {
  patient = nullptr;
  if (kept_ != nullptr) {
    (void)munmap(kept_, kKept);
  }
}

bool PatientMemory::Refill() {
  if (kept_ == nullptr) {
    void* const kept = mmap(nullptr, kKept, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    kept_ = kept == MAP_FAILED ? nullptr : kept;
  }
  return kept_ != nullptr;
}

// The allocation is tried again when this returns.
void PatientMemory::OnFailure() {
  if (patient == nullptr) {
    throw std::bad_alloc();
  }
  if (void* const kept = std::exchange(patient->kept_, nullptr); kept != nullptr) {
    (void)munmap(kept, kKept);
    patient->spent_.Signal();
    return;
  }
  absl::SleepFor(kPause);
}

}  // namespace ferrite
