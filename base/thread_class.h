// How threads share the processors with the guest and with one another.
#ifndef FERRITE_BASE_THREAD_CLASS_H_
#define FERRITE_BASE_THREAD_CLASS_H_

namespace ferrite {

enum class ThreadClass {
  // As the thread that makes it.
  kInherited,
  // Does little each time, and a vCPU waits for it: it goes before whoever runs. It has a higher priority, where this
  // process may have one, and the shortest time slice (Linux 6.12: who wakes with a shorter slice does not wait for the
  // end of the other's).
  kUrgent,
  // Copies for seconds without a rest, and nobody waits for any one page of it: its slice is somewhat longer than the
  // default. Its priority is the guest's: with a lower one a busy host takes the processors from it, and the guest
  // waits for its memory all the longer (docs/performance.md).
  kBulk,
};

// The calling thread's nice value.
int OwnNice();

// The calling thread is of this class for good. Priorities are relative to the nice value `nice`.
void EnterClass(ThreadClass its_class, int nice);

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

}  // namespace ferrite

#endif  // FERRITE_BASE_THREAD_CLASS_H_
