// Whether two names are of one disk.
#ifndef FERRITE_VMM_MIRROR_SAME_DISK_H_
#define FERRITE_VMM_MIRROR_SAME_DISK_H_

namespace ferrite {

// Whether what is written to one of `a` and `b` (open, also with O_PATH) may be seen at the other: they are one file or
// one block device, one is a loop device over the other, or they are a disk and a partition of it. What is deeper
// (device mapper, a loop device over a loop device) is not looked for; whoever opens such a one with O_EXCL finds out.
bool MayBeSameDisk(int a, int b);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_SAME_DISK_H_
