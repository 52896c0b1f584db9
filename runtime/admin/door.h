/* door.h - the HTTP server of --http and --http-token-file, and the control socket of --socket. */
#ifndef MX_DOOR_H
#define MX_DOOR_H
#include "admin/http.h"
#include "options.h"

/* As mx_http_open. The exit code when it cannot be opened, stderr says why; 0 when it is, or nobody wants one. */
int mx_door_open(mx_runtime *r, mx_http_hear *hear, void *arg, const mx_options *o);
/* As mx_control_open, with the same answer. worker: its number under -w, which ends the path; 0: there is one process. */
int mx_door_control(mx_runtime *r, const mx_options *o, uint32_t worker);
#endif
