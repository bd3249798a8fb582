// Moves as text for people, and as JSON.
#ifndef FERRITE_VMM_APP_MOVE_TEXT_H_
#define FERRITE_VMM_APP_MOVE_TEXT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "vmm/control/move_port.h"

namespace ferrite {

// One line; how much was sent and is left as soon as memory goes: "active, round 2: 512 MiB sent, 12 MiB left, 1.2
// GiB/s, dirties 80 MiB/s, expected downtime 9.8 ms".
std::string FormatMoveProgress(const MoveStatus& move);

// The account of a move, several lines, each with '\n' at its end. docs/move.md says how to read it.
std::string FormatMoveAccount(const migration::MoveReport& report);

// The same of a move to here, as far as it was measured here.
std::string FormatArrival(const migration::MoveReport& report);

// Where the guest is: one line.
std::string FormatGuestPlace(const std::string& name, const MoveStatus& move);

// The last move away, or to here, as far as it got and is known here, and what to type where that is a person's affair.
std::string FormatLastMove(const std::string& name, const MoveStatus& move);
std::string FormatArrivalState(const std::string& name, const MoveStatus& arrival);

// Whether the guest of that move was handed over, and its connection is lost: it may run there, and does not here.
bool IsHandedOver(const MoveStatus& move);
// Whether the guest, which came by that move, misses memory that nobody brings now.
bool MissesMemory(const MoveStatus& arrival);

// Why a move failed, where the guest is, and what to do about it where there is something.
std::string FormatMoveFailure(const std::string& name, const MoveStatus& move);

// Durations are seconds, rates bytes a second.
nlohmann::ordered_json MoveJson(const MoveStatus& move);
nlohmann::ordered_json ArrivalJson(const MoveStatus& arrival);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MOVE_TEXT_H_
