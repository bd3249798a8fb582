// libnbd(3), loaded when it is wanted first: linked, it and what it brings along would cost each start of the program
// 7 ms.
#ifndef FERRITE_VMM_MIRROR_NBD_LIBRARY_H_
#define FERRITE_VMM_MIRROR_NBD_LIBRARY_H_

#include <libnbd.h>

#include <string>

#include "absl/status/statusor.h"

namespace ferrite {

// What is used of it. All of it is in libnbd 1.4 and later.
#define FERRITE_NBD_FUNCTIONS(function)                                                                           \
  function(create) function(close) function(get_error) function(get_errno) function(set_export_name)              \
      function(set_uri_allow_local_file) function(aio_connect_uri) function(aio_connect_unix)                     \
          function(aio_connect_socket) function(aio_get_fd) function(aio_get_direction) function(aio_notify_read) \
              function(aio_notify_write) function(aio_is_ready) function(aio_is_dead) function(aio_is_closed)     \
                  function(aio_disconnect) function(get_size) function(get_block_size) function(get_export_name)  \
                      function(get_tls_negotiated) function(is_read_only) function(can_flush) function(can_trim)  \
                          function(can_zero) function(can_fast_zero) function(aio_pread_structured)               \
                              function(aio_pwrite) function(aio_zero) function(aio_trim) function(aio_flush)      \
                                  function(aio_command_completed)

// Its functions, without the "nbd_" of their names. Threads: any; a handle's are one at a time.
struct NbdLibrary {
#define FERRITE_NBD_MEMBER(name) decltype(&nbd_##name) name = nullptr;
  FERRITE_NBD_FUNCTIONS(FERRITE_NBD_MEMBER)
#undef FERRITE_NBD_MEMBER

  // The one of this process, which stays. FAILED_PRECONDITION that says what to install where it is not there.
  static absl::StatusOr<const NbdLibrary*> Load();

  // What the last call of this thread that failed has to say, clean and without the function's name.
  std::string LastError() const;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_NBD_LIBRARY_H_
