// How the threads of a move share the processors with the guest and with one another.
#ifndef FERRITE_BASE_THREAD_CLASS_H_
#define FERRITE_BASE_THREAD_CLASS_H_

namespace ferrite::migration {

// The calling thread does little each time, and a vCPU waits for it: it goes before whoever runs. It gets a higher
// priority, where this process may have one, and the shortest time slice (Linux 6.12: who wakes with a shorter slice
// does not wait for the end of the other's). For threads of a move's own.
void BecomeUrgent();

// The calling thread copies for seconds without a rest, and nobody waits for any one page of it: it gets a lower
// priority, for good, and a slice that is somewhat longer than the default, so that a vCPU does not wait for it.
void BecomeBulk();

// For a thread that is the caller's: it is urgent while this lives, and then what it was.
class Urgency {
 public:
  Urgency();
  ~Urgency();
  Urgency(const Urgency&) = delete;
  Urgency& operator=(const Urgency&) = delete;

 private:
  const int nice_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_BASE_THREAD_CLASS_H_
