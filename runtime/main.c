/* main.c - plugs the script's turn into the worker; the only file that knows both. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "admin/http.h"
#include "options.h"
#include "script.h"
#include "wire/stream.h"
#include "worker/supervisor.h"
#include "worker/worker.h"

/* The first line of the file into the room, or what the environment says; NULL: there is no token. */
static const char *http_token(const char *file, char *room, int size) {
    const char *said = getenv("MXRUN_HTTP_TOKEN");
    if (!file) return said && *said ? said : NULL;
    FILE *f = fopen(file, "re");
    *room = '\0';
    if (!f) return room;
    if (!fgets(room, size, f)) *room = '\0';
    fclose(f);
    room[strcspn(room, "\r\n")] = '\0';
    return room;
}

/* The exit code when it cannot be opened, 0 when it is, or nobody wants one. */
static int open_http(mx_runtime *r, const mx_options *o) {
    char token[4096], why[MX_HTTP_WHY];
    if (!o->http || o->command) return 0;
    const char *secret = http_token(o->http_token_file, token, (int)sizeof token);
    if (secret && !*secret) {
        fprintf(stderr, "mxrun: --http-token-file %s: it cannot be read, or has no token in its first line\n",
                o->http_token_file);
        return 2;
    }
    int code = mx_http_open(r, o->http, secret, why);
    if (code) fprintf(stderr, "mxrun: --http %s: %s\n", o->http, why);
    return code == MX_ECONFIG ? 2 : code != 0;
}

/* Else the first files that are opened would be taken for them. */
static void open_standard_streams(void) {
    int fd;
    do fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

/* busy: a thread of the loop's still works, and is not waited for. */
static int run(const mx_options *options, int *busy) {
    mx_worker worker;
    if (mx_worker_init(&worker)) {
        perror("mxrun: cannot start the event loop");
        return 1;
    }
    int code = open_http(&worker.runtime, options);
    mx_script *script = code ? NULL : mx_script_new(&worker.runtime, options);
    if (script) {
        worker.turn = mx_script_turn;
        worker.turn_arg = script;
        mx_worker_run(&worker);
        code = worker.runtime.turn.exit_code;
        mx_script_close(script);
    } else if (!code) code = 1;
    mx_http_close(&worker.runtime);
    *busy = mx_worker_fini(&worker);
    return code;
}

int main(int argc, char **argv) {
    mx_options options;
    int busy = 0;
    mx_place_attach();
    open_standard_streams();
    mx_options_parse(&options, argc, argv);
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
