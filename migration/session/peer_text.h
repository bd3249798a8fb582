// What a peer says to people, as it may be shown to them.
#ifndef FERRITE_MIGRATION_SESSION_PEER_TEXT_H_
#define FERRITE_MIGRATION_SESSION_PEER_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"

namespace ferrite::migration {

inline constexpr size_t kMaxPeerText = 1024;

// One line of at most kMaxPeerText bytes of valid UTF-8, which a terminal and a log show as text: each byte that is no
// part of a character, each control character and each one that changes lines or their direction becomes '?'. What is
// longer ends in "...". `text` may be anything.
std::string PeerText(absl::string_view text);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_PEER_TEXT_H_
