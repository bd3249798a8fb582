// Memory for a thread that does not survive it when an allocation fails.
#ifndef FERRITE_BASE_PATIENT_MEMORY_H_
#define FERRITE_BASE_PATIENT_MEMORY_H_

#include <cstddef>

#include "base/fd.h"

namespace ferrite {

// For libraries that end the process when `operator new` throws, as kj's promises do. While it lives, none fails on the
// thread that made it: first what is kept here is given back to the host for it, and `spent` is signalled; where that
// was not enough it waits until there is memory. Other threads see a failure as ever. On the stack, one for a thread.
class PatientMemory {
 public:
  explicit PatientMemory(const EventFd& spent);
  ~PatientMemory();
  PatientMemory(const PatientMemory&) = delete;
  PatientMemory& operator=(const PatientMemory&) = delete;

  // Keeps some again, unless there is some. False where the host has none.
  bool Refill();

 private:
  static void OnFailure();

  const EventFd& spent_;
  void* kept_ = nullptr;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_PATIENT_MEMORY_H_
