#include "migration/session/departure/handshake.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/api/remedy.h"
#include "migration/channel/control_peer.h"
#include "migration/channel/rendezvous.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"

namespace ferrite::migration {
namespace {

// A destination that says that it needs longer to load the state is refused: the guest would stand still for as long.
constexpr absl::Duration kMaxLoad = absl::Seconds(10);

Preamble PreambleOf(const Departure& departure, ChannelRole role, uint16_t index) {
  return {.lowest_version = kOurVersions.lowest,
          .version = kOurVersions.newest,
          .role = role,
          .index = index,
          .move_id = departure.id};
}

// What `open` opens, with a proof of `epoch`.
template <typename Open>
auto OpenChannel(Departure& departure, uint64_t epoch, absl::Duration limit, const Open& open)
    -> decltype(open(std::declval<ChannelOpener::Terms&>())) {
  const auto prove = [&departure, epoch](const Preamble& preamble,
                                         const Nonce& challenge) -> absl::StatusOr<ChannelProof> {
    FERRITE_ASSIGN_OR_RETURN(const ChannelProof proof, departure.credentials.ProveChannel(preamble, epoch, challenge));
    if (preamble.role == ChannelRole::kRecover) {
      departure.credentials.SetControl(proof);
    }
    return proof;
  };
  ChannelOpener::Terms terms{
      .limit = limit, .patience = departure.options.silence, .cancel = departure.link.broken().event(), .prove = prove};
  auto channel = open(terms);
  departure.reached = departure.reached || terms.reached;
  if (absl::IsCancelled(channel.status())) {
    // Why it was says more.
    FERRITE_RETURN_IF_ERROR(departure.link.broken().reason());
  }
  return channel;
}

// A source that does not look for a destination does not have one wait for it.
uint64_t FeaturesFor(const MoveOptions& options) {
  return options.recover_for > absl::ZeroDuration() ? kOurFeatures : kOurFeatures & ~uint64_t{kFeatureResume};
}

// What can be mirrored is offered, where that is wanted and the destination knows what it means.
absl::Status Offer(Departure& departure) {
  const bool knows = (departure.features & kFeatureMirror) != 0;
  if (departure.options.disks == DiskMoves::kMirror && departure.mirrors && !knows) {
    return absl::FailedPreconditionError("the destination's ferrite takes no disk that is copied");
  }
  if (departure.options.disks == DiskMoves::kShared || !knows) {
    departure.Decline([](const OutgoingPart&) { return true; });
  }
  return absl::OkStatus();
}

// Leaves out what the destination has declined: the parts whose regions have pages of no size there.
absl::Status HeedDeclined(Departure& departure, message::Accept& accept) {
  if (accept.host_page_bytes.size() != departure.regions.size()) {
    return absl::InvalidArgumentError("the destination accepted another number of memory regions");
  }
  std::vector<const OutgoingPart*> declined;
  std::vector<uint64_t> taken;
  auto theirs = accept.host_page_bytes.begin();
  for (const OutgoingPart* part : departure.parts) {
    const auto end = theirs + static_cast<std::ptrdiff_t>(part->regions().size());
    if (part->mirrored() && std::all_of(theirs, end, [](uint64_t bytes) { return bytes == 0; })) {
      declined.push_back(part);
    } else {
      taken.insert(taken.end(), theirs, end);
    }
    theirs = end;
  }
  if (departure.options.disks == DiskMoves::kMirror && !declined.empty()) {
    return WithRemedy(absl::FailedPreconditionError(absl::StrCat(declined[0]->name(),
                                                                 " is to be copied, and the destination has named no "
                                                                 "place for that")),
                      Remedy::kNameDiskCopy);
  }
  accept.host_page_bytes = std::move(taken);
  departure.Decline([&declined](const OutgoingPart& part) {
    return std::find(declined.begin(), declined.end(), &part) != declined.end();
  });
  return absl::OkStatus();
}

// Sets the units in which pages are sent after the switchover: the larger of both ends' host pages.
absl::Status AgreeOnUnits(Departure& departure, message::Accept& accept) {
  FERRITE_RETURN_IF_ERROR(HeedDeclined(departure, accept));
  const std::vector<MachineSpec::Region>& regions = departure.regions;
  for (size_t i = 0; i < regions.size(); ++i) {
    const uint64_t theirs = accept.host_page_bytes[i];
    const uint64_t bytes = std::max(theirs, regions[i].page_bytes);
    if (theirs < kPageBytes || (theirs & (theirs - 1)) != 0 || regions[i].bytes % bytes != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "region ", regions[i].name, " has no whole number of the destination's pages of ", theirs, " bytes"));
    }
    departure.pages_per_unit.push_back(bytes / kPageBytes);
  }
  return absl::OkStatus();
}

// A destination that knows no lost pages cannot have a guest that has some.
absl::Status CheckLostPages(Departure& departure) {
  const std::vector<GuestAddress> lost = departure.machine.memory().LostPages();
  if (lost.empty() || (departure.features & kFeaturePoison) != 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat("the host lost ", lost.size(),
                                                    " pages of the guest, the first at 0x", absl::Hex(lost[0].value()),
                                                    ", and the destination's ferrite knows no lost pages"));
}

}  // namespace

absl::Status OpenControl(Departure& departure, ChannelOpener& opener, ChannelRole role, uint64_t epoch,
                         absl::Duration silence, absl::Duration limit) {
  FERRITE_ASSIGN_OR_RETURN(
      std::unique_ptr<ControlChannel> channel,
      OpenChannel(departure, epoch, std::min(limit, departure.options.connect_limit), [&](ChannelOpener::Terms& terms) {
        return opener.OpenControl(PreambleOf(departure, role, 0), terms);
      }));
  FERRITE_ASSIGN_OR_RETURN(
      std::unique_ptr<ControlPeer> peer,
      ControlPeer::Create(departure.host, std::move(channel),
                          {.thread_name = "mig-src-ctl",
                           .peer_name = "the destination",
                           .silence = silence,
                           // What is missing may come before it was seen to that STANDING is believed.
                           .most_bytes = role == ChannelRole::kRecover ? kMaxStandingBytes : kMaxGreetingBytes},
                          [&broken = departure.link.broken()](const absl::Status& why) { broken.Cancel(why); }));
  departure.link.SetPeer(std::move(peer));
  return departure.cancelled() ? absl::CancelledError("cancelled") : absl::OkStatus();
}

absl::Status Setup(Departure& departure) {
  const MoveOptions& options = departure.options;
  FERRITE_RETURN_IF_ERROR(OpenControl(departure, *departure.opener, ChannelRole::kControl, departure.epoch,
                                      std::max(options.silence, options.patience), options.connect_limit));
  FERRITE_ASSIGN_OR_RETURN(const KeyExchange exchange, KeyExchange::Create(KeyExchange::Side::kSource));
  FERRITE_RETURN_IF_ERROR(departure.peer().Send(message::Hello{.move_id = departure.id,
                                                               .versions = kOurVersions,
                                                               .features = FeaturesFor(options),
                                                               .page_channels = static_cast<uint16_t>(options.channels),
                                                               .urgent_channels = kUrgentChannels,
                                                               .key = exchange.key(),
                                                               .nonce = exchange.nonce()}));
  FERRITE_ASSIGN_OR_RETURN(const message::Welcome welcome, departure.Await<message::Welcome>());
  departure.features = welcome.features & FeaturesFor(options);
  FERRITE_RETURN_IF_ERROR(ChooseVersion(kOurVersions, {.lowest = welcome.version, .newest = welcome.version}).status());
  FERRITE_RETURN_IF_ERROR(CheckLostPages(departure));
  FERRITE_RETURN_IF_ERROR(Offer(departure));

  FERRITE_ASSIGN_OR_RETURN(MoveSecret secret, exchange.Agree(welcome.key, welcome.nonce, departure.id));
  FERRITE_ASSIGN_OR_RETURN(const Nonce bound, departure.peer().Bind(welcome.nonce));
  departure.credentials = Credentials(std::move(secret), exchange.nonce(), bound, departure.peer().parties());

  FERRITE_ASSIGN_OR_RETURN(MachineSpec spec, departure.machine.state().Describe());
  spec.regions = departure.regions;
  FERRITE_ASSIGN_OR_RETURN(const Digest digest, departure.credentials.Prove(Claim::kMachine, /*epoch=*/0));
  FERRITE_RETURN_IF_ERROR(departure.peer().Send(message::Machine{.spec = std::move(spec), .digest = digest}));
  FERRITE_ASSIGN_OR_RETURN(message::Accept accept, departure.Await<message::Accept>());
  FERRITE_RETURN_IF_ERROR(
      Annotate(departure.credentials.Check(Claim::kAccept, /*epoch=*/0, accept.digest), message::Accept::kName));
  departure.peer().SetMostBytes(kMaxControlBytes);
  FERRITE_RETURN_IF_ERROR(AgreeOnUnits(departure, accept));
  // Behind the switchover a page that the hardware loses must be told of: nobody could end the move without.
  const bool knows_lost = (departure.features & kFeaturePoison) != 0;
  const bool postcopy_possible = accept.postcopy && knows_lost && (departure.features & kFeaturePostcopy) != 0;
  departure.shared.postcopy_possible = postcopy_possible;
  if (!postcopy_possible && options.mode == MoveMode::kPostcopy) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the destination cannot do post-copy: ",
        accept.postcopy && !knows_lost ? "its ferrite knows no lost pages" : CleanText(accept.postcopy_reason)));
  }
  return OpenPages(departure, /*epoch=*/0, options.patience);
}

absl::StatusOr<bool> AskWhetherGranted(Departure& departure, ChannelOpener& opener, uint64_t epoch,
                                       absl::Duration limit) {
  FERRITE_RETURN_IF_ERROR(
      OpenControl(departure, opener, ChannelRole::kRecover, epoch, departure.options.silence, limit));
  FERRITE_RETURN_IF_ERROR(
      departure.peer().Send(message::Recover{.move_id = departure.id,
                                             .epoch = epoch,
                                             .page_channels = static_cast<uint16_t>(departure.options.channels),
                                             .urgent_channels = kUrgentChannels}));
  FERRITE_ASSIGN_OR_RETURN(const message::Standing standing, departure.peer().Expect<message::Standing>(limit));
  FERRITE_RETURN_IF_ERROR(Annotate(
      departure.credentials.Check(standing.granted ? Claim::kGranted : Claim::kStanding, epoch, standing.digest),
      message::Standing::kName));
  departure.peer().SetMostBytes(kMaxControlBytes);
  return standing.granted;
}

absl::Status OpenPages(Departure& departure, uint64_t epoch, absl::Duration limit) {
  ChannelOpener& opener = *departure.opener;
  opener.SetMemory(departure.memory_part.Mappings());
  PageSource::Channels channels{
      .page = {}, .urgent = {}, .know_lost = (departure.features & kFeaturePoison) != 0, .turns = departure.turns};
  for (int i = 0; i < departure.options.channels; ++i) {
    FERRITE_ASSIGN_OR_RETURN(
        channels.page.emplace_back(), OpenChannel(departure, epoch, limit, [&](ChannelOpener::Terms& terms) {
          return opener.OpenPages(PreambleOf(departure, ChannelRole::kPage, static_cast<uint16_t>(i)), terms);
        }));
  }
  for (uint16_t i = 0; i < kUrgentChannels; ++i) {
    FERRITE_ASSIGN_OR_RETURN(channels.urgent.emplace_back(),
                             OpenChannel(departure, epoch, limit, [&](ChannelOpener::Terms& terms) {
                               return opener.OpenUrgent(PreambleOf(departure, ChannelRole::kUrgent, i), terms);
                             }));
  }
  FERRITE_ASSIGN_OR_RETURN(const message::Opened opened, departure.peer().Expect<message::Opened>(limit));
  FERRITE_RETURN_IF_ERROR(
      Annotate(departure.credentials.Check(Claim::kOpened, epoch, opened.digest), message::Opened::kName));
  if (departure.can_have_fewer()) {
    channels.tell_broken = [&peer = departure.peer()](size_t channel) {
      // Where that does not go, more is lost than a channel.
      (void)peer.Send(message::Broken{.channel = static_cast<uint16_t>(channel), .missing = {}, .last = true});
    };
    channels.on_fewer = [&log = departure.host.log](size_t channel, size_t living, const absl::Status& why) {
      IfThereIsMemory([&] {
        log.Warn(absl::StrCat("move: page channel ", channel, " broke (", why.message(), "); the move goes on over ",
                              living, living == 1 ? " other" : " others"));
      });
    };
  }
  const auto on_failure = [&shared = departure.shared, &broken = departure.link.broken()](const absl::Status& failure) {
    if (shared.state().get() == MoveState::kDevice) {
      // The guest stands still, and nobody but the departure's thread can end that.
      broken.Cancel(failure);
    }
  };
  FERRITE_ASSIGN_OR_RETURN(
      std::unique_ptr<PageSource> pages,
      PageSource::Create(departure.host, departure.parts, departure.pages_per_unit, std::move(channels),
                         departure.options, departure.shared.figures(), on_failure,
                         {.can_be_lost = epoch == 0 && departure.can_resume(), .pages = departure.pending}));
  departure.link.SetPages(std::move(pages));
  departure.pending = epoch == 0 ? departure.pages().pending() : nullptr;
  departure.shared.TellPending(departure.pages().pending());
  return absl::OkStatus();
}

absl::Status Advise(Departure& departure) {
  SourceMachine& machine = departure.machine;
  machine.resources().InhibitBalloon();
  departure.undo.Push([&machine](const absl::Status&) {
    machine.resources().AllowBalloon();
    return absl::OkStatus();
  });
  FERRITE_RETURN_IF_ERROR(departure.peer().Send(message::Advise{}));
  FERRITE_RETURN_IF_ERROR(machine.handover().PrepareGrant(departure.id, departure.epoch, departure.shared.where()));
  FERRITE_ASSIGN_OR_RETURN(const message::Ready ready, departure.Await<message::Ready>());
  departure.load_estimate = ready.load;
  if (ready.load > kMaxLoad) {
    return absl::FailedPreconditionError(
        absl::StrCat("the destination says that it needs ", absl::FormatDuration(ready.load),
                     " to load the machine's state, in which the guest would stand still; at most ",
                     absl::FormatDuration(kMaxLoad), " are waited for"));
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
