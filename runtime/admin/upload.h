/* upload.h - HTTP POST to somebody who collects, on a loop.
 *
 * Design: libcurl's multi interface tells which sockets to poll and when to look again; no thread but its resolver's. It is
 * loaded with the first request: most processes make none. The answer's body is of no interest. */
#ifndef MX_UPLOAD_H
#define MX_UPLOAD_H
#include "link/link.h"

typedef struct mx_uploader mx_uploader;

void mx_uploader_close(
    mx_runtime *r); /* requests under way are dropped, their tickets too; before the loop goes; there may be none */
#endif
