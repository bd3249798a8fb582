// Who makes a library's threads: whoever uses the library hands one in.
#ifndef FERRITE_BASE_THREAD_MAKER_H_
#define FERRITE_BASE_THREAD_MAKER_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "base/thread.h"
#include "base/thread_class.h"

namespace ferrite {

// Makes them as Thread::Start() does. One that derives from it may refuse, or do something on the new thread before
// `body`. Threads: any.
class ThreadMaker {
 public:
  // Priorities of its threads are relative to that of the thread that makes the maker: those that ask for threads later
  // may have got a higher one themselves.
  ThreadMaker() : nice_(OwnNice()) {}
  virtual ~ThreadMaker() = default;
  ThreadMaker(const ThreadMaker&) = delete;
  ThreadMaker& operator=(const ThreadMaker&) = delete;

  virtual absl::StatusOr<Thread> Start(std::string name, ThreadClass its_class, std::function<void()> body);

 private:
  const int nice_;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_THREAD_MAKER_H_
