// Memory that the start of a monitor and its commands needed, given back when they are over.
#ifndef FERRITE_VMM_APP_UNUSED_MEMORY_H_
#define FERRITE_VMM_APP_UNUSED_MEMORY_H_

namespace ferrite {

// Free heap goes back to the host; pages of the program and of its libraries are no longer mapped until they are used
// again (they are in the page cache: a fault each, no reading).
void ReleaseUnusedMemory();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_UNUSED_MEMORY_H_
