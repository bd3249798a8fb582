// Mirrors as text for people, and as JSON.
#ifndef FERRITE_VMM_APP_MIRROR_TEXT_H_
#define FERRITE_VMM_APP_MIRROR_TEXT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "vmm/control/mirror_port.h"

namespace ferrite {

// How it goes, one line: "running: 1.2 GiB of 4 GiB done, 2.8 GiB left, 310 MiB/s, guest writes 12 MiB/s".
std::string FormatMirrorProgress(const MirrorStatus& mirror);

// How it ended, one line: "root is /images/new.img now; the old image is as it was at that instant".
std::string FormatMirrorEnd(const MirrorStatus& mirror);

// What it cost, several lines, each with '\n' at its end. docs/mirror.md says how to read it.
std::string FormatMirrorAccount(const MirrorStatus& mirror);

// The disk's last mirror, on or over, one line.
std::string FormatLastMirror(const MirrorStatus& mirror);

// Durations are seconds, rates bytes a second; null where there was none.
nlohmann::ordered_json MirrorJson(const MirrorStatus& mirror);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MIRROR_TEXT_H_
