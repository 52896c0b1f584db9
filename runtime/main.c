/* main.c - plugs the script's turn into the worker; the only file that knows both. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "admin/control.h"
#include "admin/door.h"
#include "admin/editor.h"
#include "admin/http.h"
#include "admin/upload.h"
#include "base/secret.h"
#include "measure/metrics.h"
#include "options.h"
#include "script.h"
#include "wire/stream.h"
#include "worker/ask.h"
#include "worker/supervisor.h"
#include "worker/worker.h"

/* Else the first files that are opened would be taken for them. */
static void open_standard_streams(void) {
    int fd;
    do fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

/* The supervisor's server is for all workers; theirs is for what it asks. */
static int open_http(mx_runtime *r, const mx_options *options) {
    char why[MX_HTTP_WHY];
    if (!mx_place_get()->journal) return mx_door_open(r, NULL, NULL, options);
    if (!mx_place_get()->watched || !mx_ask_serve(r, why)) return 0;
    fprintf(stderr, "mxrun: %s\n", why);
    return 1;
}

/* busy: a thread of the loop's still works, and is not waited for. */
static int run(const mx_options *options, int *busy) {
    mx_worker worker;
    if (mx_worker_init(&worker)) {
        perror("mxrun: cannot start the event loop");
        return 1;
    }
    int code = open_http(&worker.runtime, options);
    if (!code) code = mx_door_control(&worker.runtime, options, mx_place_get()->journal ? mx_place_get()->number : 0);
    mx_script *script = code ? NULL : mx_script_new(&worker.runtime, options);
    if (script) {
        worker.turn = mx_script_turn;
        worker.turn_arg = script;
        mx_worker_run(&worker);
        code = worker.runtime.turn.exit_code;
        mx_slab_seal(); /* with its state Lua gives up what it counted */
        mx_script_close(script);
    } else if (!code) code = 1;
    mx_editor_close(&worker.runtime);
    mx_control_close(&worker.runtime);
    mx_http_close(&worker.runtime);
    mx_uploader_close(&worker.runtime);
    *busy = mx_worker_fini(&worker);
    return code;
}

/* malloc maps blocks of 128 KiB and more singly until it has seen a larger one go; aligned ones of 64 KiB would be of those, and
 * count, and be mapped, for twice their size. */
static void teach_malloc(void) {
    void *volatile large = malloc(512 * 1024);
    free(large);
}

int main(int argc, char **argv) {
    mx_options options;
    int busy = 0;
    teach_malloc();
    mx_place_attach();
    open_standard_streams();
    mx_options_parse(&options, argc, argv);
    mx_secret_wipe_stack();
    mx_tls_count_memory();
    int code = options.exit_code, is_worker = mx_place_get()->journal != NULL;
    if (!options.exit_now) code = options.workers && !is_worker ? mx_supervisor_run(&options) : run(&options, &busy);
    mx_options_fini(&options);
    if (busy) {
        fflush(NULL);
        _exit(code);
    }
    return code;
}
