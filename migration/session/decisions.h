// Who runs the guest, and when a side is done (R2, R4, R10): what the two sides decide of that, as functions of what a
// side knows. No I/O, no time, no locks. The sessions go by them, and so does the model in tests/model, which tries
// every order of events.
//
// Not here, because it is no function of a few values, and what the model has in its place:
//   - the order of acts: the record before GRANT, the old connections closed before a source that comes back is
//     answered, no guest that runs when REFUSE is said. The model has the same order, and a mutant for each.
//   - a change of state against a cancel at the same moment (MoveStateMachine). In the model one comes after the other,
//     and each change is one that IsAllowed() knows.
//   - all that ends by time (patience, silence, hold_for, recover_for): in the model at any instant.
//   - the record on disk, and whether a name may be used again (vmm/control/handed_over.h): a number that stays
//     behind when its side ends.
//   - which pages are here (Placement): a small number that are missing.
//   - a word of the other side's that only a liar would say, which the sessions refuse besides.
#ifndef FERRITE_MIGRATION_SESSION_DECISIONS_H_
#define FERRITE_MIGRATION_SESSION_DECISIONS_H_

#include <cstdint>
#include <optional>

#include "migration/api/move_state.h"

namespace ferrite::migration {

// The source.

// What a failure leads to, by whether the destination may run the guest.
enum class Fallback { kGoOnHere, kStandStill };
Fallback AfterFailure(bool may_run_there);

// GRANT was not answered by RUNNING: whether the guest may run there all the same. Who refuses has not run it, and
// never will; who merely went away may.
bool MayRunAfterFailedGrant(bool refused);

// Whether a RUNNING is the answer to the last GRANT.
bool AnswersGrant(uint64_t running_epoch, uint64_t granted_epoch);

// What follows STANDING when the move is to go on.
enum class AfterStanding { kGoOn, kGrantAgain, kContradiction };
AfterStanding DecideAfterStanding(bool granted, bool ran_there);

// Whether the guest is taken back when a person asks for it.
enum class TakingBack {
  kRevoke,      // the destination does not have it, and is told that it never will
  kOnWord,      // on the person's word: nobody can be asked
  kHasGuest,    // no: it is the destination's
  kEnded,       // no: this was ended
  kNeedsForce,  // no: somebody is there who does not say
};
// `granted`: the answer (STANDING), if there was one. `reached`: somebody took a connection. Once a destination has
// said that it was not granted, only this side could change that: it had dropped what came before, so REVOKED need not
// be waited for with success.
TakingBack DecideTakingBack(std::optional<bool> granted, bool ended, bool reached, bool force);

// Whether the destination is looked for.
bool MaySearch(MoveState state, bool can_recover);
// The same of one that was lost while it was copied: who asked for an end, and who gave a reason, meant it.
bool MaySearchToCopy(MoveState state, bool can_resume, bool said_why);

// The destination.

enum class OnGrant { kRun, kOtherMove, kNotLoaded };
OnGrant DecideOnGrant(bool same_move, bool loaded);

// RECOVER of the right move. Of a source that is copying it is of epoch 0, which is that of no GRANT.
enum class OnRecover { kGranted, kNotGranted, kCopying, kWrongEpoch, kOver };
OnRecover DecideOnRecover(MoveState state, uint64_t granted_epoch, uint64_t epoch);

// A connection ended: whether its source is waited for. `lost`: it did not end by a wait of ours; `said_why`: the
// source gave a reason.
struct Ending {
  bool can_recover = false;
  bool can_resume = false;  // while it is copied
  bool ends_here = false;   // cancelled, or leaving
  bool loaded = false;
  bool lost = false;
  bool said_why = false;
};
bool DecideMayComeBack(MoveState state, const Ending& ending);

// Whether it waits without an end, because the guest runs and misses pages. Else GRANT or HEARD is missing, or all that
// is still to be copied.
bool MissesPages(MoveState state, bool settled);

// Whether the guest is this side's when it gives up: then that is all it gives up.
bool HasGuest(MoveState state);

// What a destination that gives up without the guest says. GRANT may be on its way to one that has loaded the state:
// the source runs the guest when it hears REFUSE.
enum class LastWord { kNone, kError, kRefuse };
LastWord DecideLastWord(bool connected, bool loaded);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DECISIONS_H_
