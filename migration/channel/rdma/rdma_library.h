// libibverbs and librdmacm, loaded when they are wanted first: a host without RDMA has neither.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_LIBRARY_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_LIBRARY_H_

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "absl/status/statusor.h"

namespace ferrite::migration {

// What is used of them; what verbs.h has inline (ibv_post_send(3), ibv_poll_cq(3)) calls the provider itself.
// libibverbs has most of it twice, for programs of 2006: see Load().
#define FERRITE_VERBS_FUNCTIONS(function)                                                                            \
  function(get_device_list) function(free_device_list) function(get_device_name) function(open_device)               \
      function(close_device) function(query_device) function(query_port) function(alloc_pd) function(dealloc_pd)     \
          function(reg_mr) function(dereg_mr) function(create_cq) function(destroy_cq) function(create_comp_channel) \
              function(destroy_comp_channel) function(get_cq_event) function(ack_cq_events) function(modify_qp)      \
                  function(wc_status_str)

#define FERRITE_RDMA_CM_FUNCTIONS(function)                                                                       \
  function(create_event_channel) function(destroy_event_channel) function(get_cm_event) function(ack_cm_event)    \
      function(event_str) function(create_id) function(destroy_id) function(bind_addr) function(resolve_addr)     \
          function(resolve_route) function(set_option) function(create_qp) function(destroy_qp) function(connect) \
              function(listen) function(accept) function(reject) function(disconnect)

// Their functions, without "ibv_" and "rdma_". Threads: any.
struct RdmaLibrary {
  struct {
#define FERRITE_VERBS_MEMBER(name) decltype(&ibv_##name) name = nullptr;
    FERRITE_VERBS_FUNCTIONS(FERRITE_VERBS_MEMBER)
#undef FERRITE_VERBS_MEMBER
  } verbs;
  struct {
#define FERRITE_RDMA_CM_MEMBER(name) decltype(&rdma_##name) name = nullptr;
    FERRITE_RDMA_CM_FUNCTIONS(FERRITE_RDMA_CM_MEMBER)
#undef FERRITE_RDMA_CM_MEMBER
  } cm;

  // The ones of this process, which stay. UNAVAILABLE, with what to install, where they are not there.
  static absl::StatusOr<const RdmaLibrary*> Load();
  // Those of these names.
  static absl::StatusOr<RdmaLibrary> LoadFrom(const char* verbs_file, const char* cm_file);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_LIBRARY_H_
