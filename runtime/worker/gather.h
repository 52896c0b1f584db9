/* gather.h - /debug/pprof/ of all workers: each is asked, profiles become one, texts stand one behind the other. */
#ifndef MX_GATHER_H
#define MX_GATHER_H
#include "admin/http.h"
#include "worker/shard.h"

/* Asks the workers that run, or with worker=N that one; r's server is answered when all have. q lasts as long as the call. */
void mx_gather(mx_runtime *r, const mx_shards *shards, const mx_http_request *q);
#endif
