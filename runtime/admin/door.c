/* door.c - --http and --socket as the options say. */
#include "admin/door.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "admin/control.h"
#include "base/secret.h"

/* The first line of the file into the room, or what the environment says; NULL: there is no token. */
static const char *token_of(const char *file, char *room, int size) {
    const char *said = mx_secret_environment("MXRUN_HTTP_TOKEN");
    if (!file) return said && *said ? said : NULL;
    FILE *f = fopen(file, "re");
    *room = '\0';
    if (!f) return room;
    setvbuf(f, NULL, _IONBF, 0);
    if (!fgets(room, size, f)) *room = '\0';
    fclose(f);
    room[strcspn(room, "\r\n")] = '\0';
    return room;
}

int mx_door_open(mx_runtime *r, mx_http_hear *hear, void *arg, const mx_options *o) {
    char token[4096], why[MX_HTTP_WHY];
    if (!o->http || o->command) return 0;
    const char *secret = token_of(o->http_token_file, token, (int)sizeof token);
    if (secret && !*secret) {
        fprintf(stderr, "mxrun: --http-token-file %s: it cannot be read, or has no token in its first line\n",
                o->http_token_file);
        return 2;
    }
    int code = mx_http_open(r, hear, arg, o->http, secret, why);
    explicit_bzero(token, sizeof token);
    if (code) fprintf(stderr, "mxrun: --http %s: %s\n", o->http, why);
    return code == MX_ECONFIG ? 2 : code != 0;
}

int mx_door_control(mx_runtime *r, const mx_options *o, uint32_t worker) {
    char path[4096], why[MX_CONTROL_WHY];
    if (!o->socket || o->command) return 0;
    snprintf(path, sizeof path, worker ? "%s.%u" : "%s", o->socket, worker);
    int code = mx_control_open(r, path, why);
    if (code) fprintf(stderr, "mxrun: --socket %s: %s\n", path, why);
    return code == MX_ECONFIG ? 2 : code != 0;
}
