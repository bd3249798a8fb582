// What a client takes of who answers it, which may be anybody's program: root asks about the machines of others.
#ifndef FERRITE_VMM_CONTROL_FROM_MONITOR_H_
#define FERRITE_VMM_CONTROL_FROM_MONITOR_H_

#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <sys/types.h>

#include <cstddef>

namespace ferrite {

// A monitor sends an event of a subscription when the one before it was answered.
inline constexpr size_t kMaxOpenCalls = 64;

// Of a message.
capnp::ReaderOptions LimitsOfMonitor();

// A monitor answers, and calls event sinks; the rest of the protocol is not for it to use: an exception.
void CheckFromMonitor(capnp::rpc::Message::Reader message);

// Whether it is what the console of a machine is, and nothing that a read or a write could hang on.
bool IsStreamSocket(int fd);

// The process that listens at the other end, by the kernel's word (unix(7)); 0 where it is in no namespace of ours.
pid_t ListenerOf(int fd);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_FROM_MONITOR_H_
