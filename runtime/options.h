/* options.h - the command line and the environment. */
#ifndef MX_OPTIONS_H
#define MX_OPTIONS_H
#include "base/mx.h"

typedef struct mx_pair {
    const char *key, *value;
} mx_pair;

typedef struct mx_options {
    const char *command; /* "test", "pub" ...; NULL: run file */
    const char *file, *eval, *log, *log_level, *scripts;
    const char *http, *http_token_file;
    const char *profile, *profile_dir; /* NULL: none; here */
    const char *socket;
    const char **urls;  /* *** in the place of passwords */
    mx_span *passwords; /* of the URLs, decoded; p NULL: it has none. mx_secret's */
    int url_count;
    mx_pair *set;
    int set_count;
    char **given; /* argv before passwords were taken out of it, mx_secret's: for workers; NULL: there are none */
    char **args;  /* what follows the file; args[-1] need not be the file */
    int arg_count;
    int workers;              /* 0: no supervisor */
    int watch;                /* load file anew when it was changed */
    int socket_read_only;     /* who connects may look, not evaluate */
    int interactive;          /* a prompt on the terminal */
    double eval_limit;        /* seconds of Lua without waiting for each evaluation */
    double turn_limit, drain; /* seconds */
    double memory_limit;      /* bytes; 0: none */
    int exit_now;             /* --help, --version or misuse: leave with exit_code */
    int exit_code;
} mx_options;

/* Prints help, version or what is wrong itself. The strings are argv's and the environment's. */
void mx_options_parse(mx_options *o, int argc, char **argv);
void mx_options_fini(mx_options *o);
#endif
