#include "migration/session/door.h"

#include <algorithm>
#include <array>
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

void TurnAway(Stream& stream, absl::string_view why) {
  stream.SetPatience(kPatience);
  (void)stream.WriteAll(Encode(message::Error{.message = std::string(why)}));
}

absl::StatusOr<Preamble> ReadPreamble(Lobby::Arrival& arrival) {
  std::array<uint8_t, kPreambleBytes> bytes;
  std::copy(arrival.first_bytes.begin(), arrival.first_bytes.end(), bytes.begin());
  FERRITE_ASSIGN_OR_RETURN(const Preamble preamble, DecodePreamble(bytes));
  const absl::Status version =
      ChooseVersion(kOurVersions, {.lowest = preamble.lowest_version, .newest = preamble.version}).status();
  if (!version.ok()) {
    if (preamble.role == ChannelRole::kControl) {
      TurnAway(*arrival.stream, version.message());
    }
    return version;
  }
  return preamble;
}

absl::StatusOr<std::unique_ptr<Doorman>> Doorman::Create(const Host& host, Lobby& lobby, const MoveId& id,
                                                         DropLog& drops) {
  FERRITE_ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  std::unique_ptr<Doorman> doorman(new Doorman(host, lobby, id, drops, std::move(stop)));
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
    for (Lobby::Arrival& arrival : kept_) {
      lobby_.PutBack(std::move(arrival));
    }
  });
}

void Doorman::Serve() {
  while (true) {
    absl::StatusOr<Lobby::Arrival> arrival = lobby_.Next(stop_);
    if (!arrival.ok()) {
      if (!absl::IsCancelled(arrival.status())) {
        // The move needs nobody at the door just now.
        host_.log.Warn(absl::StrCat("receive: other sources are not answered: ", arrival.status().message()));
      }
      return;
    }
    const absl::StatusOr<Preamble> preamble = ReadPreamble(*arrival);
    if (preamble.ok() && preamble->move_id == id_ && kept_.size() < kMostKept) {
      kept_.push_back(*std::move(arrival));
      continue;
    }
    if (preamble.ok() && preamble->role == ChannelRole::kControl) {
      TurnAway(*arrival->stream, kBusy);
    }
    drops_.Log(arrival->stream->peer(),
               preamble.ok() ? "it is not of the move that is on" : preamble.status().message());
  }
}

}  // namespace ferrite::migration
