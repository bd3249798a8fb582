// What both ends say before the queue pairs of a channel are there.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_LANE_SETUP_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_LANE_SETUP_H_

#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/lanes.h"

namespace ferrite::migration {

// The numeric address of an end of a connection over IP; empty for others.
std::string HostHere(const Stream& stream);
std::string HostThere(const Stream& stream);

// Over which the source writes, and over which the destination reads.
inline constexpr char kPushLane = 'w';
inline constexpr char kPullLane = 'r';
// With which a queue pair is greeted.
std::string GreetingOf(const LaneToken& token, char lane);

absl::StatusOr<LaneToken> MakeLaneToken();

// The destination's answer. FAILED_PRECONDITION, with its reason, where it takes no queue pairs; DEADLINE_EXCEEDED,
// CANCELLED.
absl::StatusOr<Lanes> AwaitLanes(Stream& stream, MonotonicTime deadline, const EventFd& cancel, const Clock& clock);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_LANE_SETUP_H_
