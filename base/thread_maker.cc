#include "base/thread_maker.h"

#include <utility>

namespace ferrite {

absl::StatusOr<Thread> ThreadMaker::Start(std::string name, ThreadClass its_class, std::function<void()> body) {
  return Thread::Start(std::move(name), [its_class, nice = nice_, body = std::move(body)] {
    EnterClass(its_class, nice);
    body();
  });
}

}  // namespace ferrite
