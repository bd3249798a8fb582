// What the engine needs of the process that it is in, and has handed in.
#ifndef FERRITE_MIGRATION_API_HOST_H_
#define FERRITE_MIGRATION_API_HOST_H_

#include "base/clock.h"
#include "base/log_sink.h"
#include "base/open_userfault.h"
#include "base/page_map.h"
#include "base/thread_maker.h"

namespace ferrite::migration {

// Source and Destination use what is here in place of anything of the process's own. It and what it refers to outlive
// all that are made with it, several of which may share it. Threads: any, at once; what is here sees to that itself.
struct Host {
  // Gets a line for what no caller is told otherwise: dropped connections, and what becomes of a guest that runs here.
  LogSink& log;
  // Makes all threads of a move, named "mig-…". A thread that it cannot make fails the move, or the connection that
  // needs it.
  ThreadMaker& threads;
  // Tells the time by which a move waits, and measures what it took. How long the peer may make no progress in the
  // middle of a read or a write, the kernel watches by its own.
  const Clock& clock = RealClock();
  // A destination asks it when it says whether it can do post-copy. Its error is why not; pre-copy needs none.
  UserfaultOpener open_userfault = OpenUserfault;
  // A source asks it which pages of private memory were never touched; without one a move of such memory fails.
  PageMapOpener page_map = OwnPageMap;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_HOST_H_
