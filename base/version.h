// The version of this program.
#ifndef FERRITE_BASE_VERSION_H_
#define FERRITE_BASE_VERSION_H_

namespace ferrite {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace ferrite

#endif  // FERRITE_BASE_VERSION_H_
