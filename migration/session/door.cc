#include "migration/session/door.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/version.h"

namespace ferrite::migration {
namespace {

// Of who is sent away and does not read.
constexpr absl::Duration kPatience = absl::Milliseconds(100);
// A move has 33 channels at most, and may have lost as many that it opened before.
constexpr size_t kMostKept = 128;

}  // namespace

void TurnAway(IncomingChannel& channel, absl::string_view why) {
  const std::unique_ptr<ControlChannel> control = channel.TakeControl(kPatience);
  (void)control->Send(message::Error{.message = std::string(why)});
}

absl::StatusOr<Preamble> ReadPreamble(IncomingChannel& channel) {
  FERRITE_ASSIGN_OR_RETURN(const Preamble preamble, channel.preamble());
  const absl::Status version =
      ChooseVersion(kOurVersions, {.lowest = preamble.lowest_version, .newest = preamble.version}).status();
  if (!version.ok()) {
    if (HasControlFrames(preamble.role)) {
      TurnAway(channel, version.message());
    }
    return version;
  }
  return preamble;
}

absl::StatusOr<std::unique_ptr<Doorman>> Doorman::Create(const Host& host, ChannelAcceptor& acceptor, const MoveId& id,
                                                         const Credentials& credentials, DropLog& drops) {
  FERRITE_ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  std::unique_ptr<Doorman> doorman(new Doorman(host, acceptor, id, credentials, drops, std::move(stop)));
  FERRITE_ASSIGN_OR_RETURN(
      doorman->thread_, host.threads.Start("mig-dst-door", ThreadClass::kInherited, [doorman = doorman.get()] {
        const absl::Status status = CatchOutOfMemory([&] {
          doorman->Serve();
          return absl::OkStatus();
        });
        if (!status.ok()) {
          IfThereIsMemory([&] {
            doorman->host_.log.Warn(absl::StrCat("receive: other sources are not answered: ", status.message()));
          });
        }
      }));
  return doorman;
}

Doorman::~Doorman() {
  stop_.Signal();
  thread_.Join();
  // What cannot be kept is closed, and its source tries again.
  IfThereIsMemory([this] {
    for (std::unique_ptr<IncomingChannel>& channel : kept_) {
      acceptor_.PutBack(std::move(channel));
    }
  });
}

void Doorman::Serve() {
  while (true) {
    absl::StatusOr<std::unique_ptr<IncomingChannel>> channel = acceptor_.Next(stop_);
    if (!channel.ok()) {
      if (!absl::IsCancelled(channel.status())) {
        // The move needs nobody at the door just now.
        host_.log.Warn(absl::StrCat("receive: other sources are not answered: ", channel.status().message()));
      }
      return;
    }
    if (const absl::Status look = Look(**channel); !look.ok()) {
      drops_.Log((*channel)->peer(), look.message());
      continue;
    }
    kept_.push_back(*std::move(channel));
  }
}

absl::Status Doorman::Look(IncomingChannel& channel) const {
  FERRITE_ASSIGN_OR_RETURN(const Preamble preamble, ReadPreamble(channel));
  if (preamble.move_id == id_ && HasProof(preamble.role)) {
    FERRITE_RETURN_IF_ERROR(credentials_.CheckChannel(preamble, channel.proof()));
    return kept_.size() < kMostKept ? absl::OkStatus()
                                    : absl::ResourceExhaustedError("too many others of this move came before it");
  }
  if (HasControlFrames(preamble.role)) {
    TurnAway(channel, kBusy);
  }
  return absl::InvalidArgumentError("it is not of the move that is on");
}

}  // namespace ferrite::migration
