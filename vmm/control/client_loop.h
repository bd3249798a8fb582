// The kj event loop of a thread's clients.
#ifndef FERRITE_VMM_CONTROL_CLIENT_LOOP_H_
#define FERRITE_VMM_CONTROL_CLIENT_LOOP_H_

#include <kj/async-io.h>

#include <memory>

namespace ferrite {

// kj allows one event loop in a thread: that of this thread, made with its first user and gone with its last.
std::shared_ptr<kj::AsyncIoContext> ThreadContext();

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_CLIENT_LOOP_H_
