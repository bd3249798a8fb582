// A kernel without a feature of userfaultfd(2).
#ifndef FERRITE_TESTS_FAKES_OLD_USERFAULT_H_
#define FERRITE_TESTS_FAKES_OLD_USERFAULT_H_

namespace ferrite {

// As long as one lives, the kernel of this process has no UFFD_FEATURE_MOVE, as it was before Linux 6.8: it refuses who
// asks for it, and UFFDIO_MOVE. Whoever is linked with this has the ioctl(2) of here. Threads: any.
class WithoutUserfaultMove {
 public:
  WithoutUserfaultMove();
  WithoutUserfaultMove(const WithoutUserfaultMove&) = delete;
  WithoutUserfaultMove& operator=(const WithoutUserfaultMove&) = delete;
  ~WithoutUserfaultMove();

  // How often it was asked for while there was none, by whoever had been told so: UFFDIO_MOVE.
  static int moves_refused();
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_OLD_USERFAULT_H_
