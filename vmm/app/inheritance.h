// What a process of ours has from its caller and does not need: it would lie open for as long as the machine runs.
#ifndef FERRITE_VMM_APP_INHERITANCE_H_
#define FERRITE_VMM_APP_INHERITANCE_H_

namespace ferrite {

// Closes every descriptor but standard input, output and error, and `keep` (-1: none). Before any is opened that is to
// stay.
void CloseInheritedDescriptors(int keep);

// Removes every variable from the environment that neither the program nor its libraries read, and all of it from where
// /proc/PID/environ shows it. While there is one thread; pointers into the environment are not valid any more.
void CleanEnvironment();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_INHERITANCE_H_
