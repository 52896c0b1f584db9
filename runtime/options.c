/* options.c - the command line, then MXRUN_* of the environment, then defaults. */
#include "options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/secret.h"
#include "worker/shard.h"

static const char help[] =
    "usage: mxrun [options] FILE [args]        run a script\n"
    "       mxrun [options] -e CODE [args]     run a line of Lua instead\n"
    "       mxrun --check FILE                 look for mistakes without a broker\n"
    "       mxrun test [-o TAP|junit] [busted options] [spec/]\n"
    "       mxrun pub EXCHANGE KEY BODY|-      publish, confirmed\n"
    "       mxrun sub QUEUE [-n N] [-e CODE]   print messages and ack them\n"
    "       mxrun dlq QUEUE ls|replay|purge    what became of failed messages\n"
    "       mxrun topology FILE --diff|--dot   what a script declares, beside what the broker has\n"
    "       mxrun init [DIR]                   a handler to begin with, its spec and a workload\n"
    "       mxrun doc [NAME]                   what the reference says of a function or an option\n"
    "       mxrun profile top|flame|... FILE   where time and memory went; URL cpu|heap: asks a running one\n"
    "       mxrun attach SOCKET|PID            a prompt in a process that runs with --socket\n"
    "       mxrun eval SOCKET|PID EXPR         one expression there; JSON when it goes to a pipe\n"
    "       mxrun top SOCKET|PID               its rates, latencies, queues and memory, live\n"
    "       mxrun health URL|SOCKET|PID        whether it is healthy, as exit code\n"
    "       mxrun bench FILE | -x 4 -r 1000    put a broker under load, by a schedule, and measure it\n"
    "       mxrun COMMAND --help               more about each\n"
    "\n"
    "  -u, --url URL       broker: amqp(s)://user:password@host:port/vhost or mem:// (repeatable; MXRUN_URLS)\n"
    "  -e, --eval CODE     run CODE; there is no FILE then, what follows are arguments\n"
    "  -w, --workers N     run the script in N processes and start those again that die; auto: as many as there are\n"
    "                      processors. Until one has come up, exit 2 ends all, and so does the fifth failure (MXRUN_WORKERS)\n"
    "      --watch         load FILE anew when it or a file of Lua that it loaded was changed, as SIGHUP does: what is broken\n"
    "                      changes nothing, handlers that run finish with the old code, mx.state stays\n"
    "      --check         compile FILE, run its main chunk with no network, report what is wrong with it\n"
    "      --http ADDR     /live /ready /health /metrics /debug/pprof/ at host:port or port, by default on 127.0.0.1 "
    "(MXRUN_HTTP);\n"
    "                      with -w of all workers\n"
    "      --http-token-file FILE   asks for Authorization: Bearer with what FILE holds (MXRUN_HTTP_TOKEN: the token)\n"
    "      --profile LIST  of cpu,heap,wait: profiles of the whole run, as NAME-DATE-PID.pb.gz for go tool pprof "
    "(MXRUN_PROFILE)\n"
    "      --profile-dir DIR  where they go, by default here (MXRUN_PROFILE_DIR)\n"
    "  -i, --interactive   a prompt on this terminal, after FILE has started; FILE may be left out\n"
    "      --socket PATH   where attach, eval, top and health look into the process; of worker N of -w at PATH.N (MXRUN_SOCKET)\n"
    "      --socket-read-only   who connects there may look, but not evaluate\n"
    "      --eval-limit S  how long an evaluation may run without waiting, 50ms (MXRUN_EVAL_LIMIT)\n"
    "      --set K=V       mx.config.K in the script: a number or a string (repeatable)\n"
    "      --log FORMAT    text or json (MXRUN_LOG)\n"
    "      --log-level L   debug, info, warn or error (MXRUN_LOG_LEVEL)\n"
    "      --turn-limit S  how long Lua may run without waiting, 5 s; 0: no limit (MXRUN_TURN_LIMIT)\n"
    "      --memory-limit SIZE  what Lua and the messages may hold, such as 512MB; none (MXRUN_MEMORY_LIMIT)\n"
    "      --drain S       how long SIGTERM waits for handlers and confirms, 25 s (MXRUN_DRAIN)\n"
    "      --scripts DIR   read mxrun's own Lua from DIR while working on it\n"
    "  -h, --help          this text\n"
    "      --version       the version\n"
    "      --              what follows is FILE and its arguments\n"
    "\n"
    "exit codes: 0 fine, 1 the script failed, 2 misuse, 3 generator-limited (bench), 4 the drain ran out, 98 slower than "
    "--compare (bench),\n"
    "99 a threshold was crossed (bench)\n";

enum {
    URL,
    EVAL,
    WORKERS,
    WATCH,
    HTTP,
    HTTP_TOKEN_FILE,
    INTERACTIVE,
    SOCKET,
    SOCKET_READ_ONLY,
    EVAL_LIMIT,
    CHECK,
    PROFILE,
    PROFILE_DIR,
    SET,
    LOG,
    LEVEL,
    TURN_LIMIT,
    DRAIN,
    MEMORY_LIMIT,
    SCRIPTS,
    HELP,
    VERSION
};
static const struct {
    const char *name, *letter;
    int id, takes;
    const char *environment;
} table[] = {
    {"--url", "-u", URL, 1, "MXRUN_URLS"},
    {"--eval", "-e", EVAL, 1, NULL},
    {"--workers", "-w", WORKERS, 1, "MXRUN_WORKERS"},
    {"--http", NULL, HTTP, 1, "MXRUN_HTTP"},
    {"--http-token-file", NULL, HTTP_TOKEN_FILE, 1, "MXRUN_HTTP_TOKEN_FILE"},
    {"--watch", NULL, WATCH, 0, NULL},
    {"--interactive", "-i", INTERACTIVE, 0, NULL},
    {"--socket", NULL, SOCKET, 1, "MXRUN_SOCKET"},
    {"--socket-read-only", NULL, SOCKET_READ_ONLY, 0, NULL},
    {"--eval-limit", NULL, EVAL_LIMIT, 1, "MXRUN_EVAL_LIMIT"},
    {"--check", NULL, CHECK, 0, NULL},
    {"--profile", NULL, PROFILE, 1, "MXRUN_PROFILE"},
    {"--profile-dir", NULL, PROFILE_DIR, 1, "MXRUN_PROFILE_DIR"},
    {"--set", NULL, SET, 1, NULL},
    {"--log", NULL, LOG, 1, "MXRUN_LOG"},
    {"--log-level", NULL, LEVEL, 1, "MXRUN_LOG_LEVEL"},
    {"--turn-limit", NULL, TURN_LIMIT, 1, "MXRUN_TURN_LIMIT"},
    {"--drain", NULL, DRAIN, 1, "MXRUN_DRAIN"},
    {"--memory-limit", NULL, MEMORY_LIMIT, 1, "MXRUN_MEMORY_LIMIT"},
    {"--scripts", NULL, SCRIPTS, 1, NULL},
    {"--help", "-h", HELP, 0, NULL},
    {"--version", NULL, VERSION, 0, NULL},
};
enum { KNOWN = sizeof table / sizeof *table, SECONDS_MAX = 10000000 };

static void leave(mx_options *o, int code) {
    o->exit_now = 1;
    o->exit_code = code;
}

static void misuse(mx_options *o, const char *format, const char *a, const char *b) {
    fputs("mxrun: ", stderr);
    fprintf(stderr, format, a, b);
    fputs("\n", stderr);
    leave(o, 2);
}

/* How many letters two words differ by, roughly: enough to guess what was meant. */
static size_t distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b);
    if (n > 62 || strlen(a) > 62) return 99;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t before = row[0]++;
        for (size_t j = 1; j <= n; j++) {
            size_t best = before + (a[i - 1] != b[j - 1]);
            before = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

/* What follows a = or : may be a URL that has a password in it. */
static void unknown(mx_options *o, const char *said) {
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)strcspn(said, "=:"), said);
    for (int i = 0; i < KNOWN; i++)
        if (distance(word, table[i].name) <= 2) {
            misuse(o, "unknown option '%s', did you mean '%s'?", word, table[i].name);
            return;
        }
    misuse(o, "unknown option '%s'; mxrun --help lists them%s", word, "");
}

static double seconds(mx_options *o, const char *name, const char *text) {
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1}, {"s", 1}, {"ms", 0.001}, {"m", 60}, {"h", 3600}};
    char *end;
    double value = strtod(text, &end);
    for (size_t i = 0; end != text && value >= 0 && i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].unit)) continue;
        if (value * units[i].factor <= SECONDS_MAX) return value * units[i].factor;
        misuse(o,
               strcmp(name, "--turn-limit") ? "%s: at most 10000000 seconds, got '%s'"
                                            : "%s: at most 10000000 seconds, got '%s'; 0 means no limit",
               name, text);
        return 0;
    }
    misuse(o, "%s: expected seconds such as 5, 100ms or 2m, got '%s'", name, text);
    return 0;
}

static double bytes(mx_options *o, const char *name, const char *text) {
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end & ~0x20) : NULL;
    for (const char *u = units; unit && u <= unit; u++) value *= 1024;
    end += unit ? 1 : 0;
    if (*end == 'B' || *end == 'b') end++;
    if (end == text || *end || !(value >= 0 && value < 1e15))
        misuse(o, "%s: expected a size such as 512MB or 2GB, got '%s'", name, text);
    return value;
}

static int workers(mx_options *o, const char *name, const char *text) {
    char *end;
    long n = strtol(text, &end, 10);
    if (!strcmp(text, "auto")) return mx_processors();
    if (end != text && !*end && n >= 1 && n <= MX_WORKERS_MAX) return (int)n;
    misuse(o, "%s: expected auto or a number from 1 to 1024, got '%s'", name, text);
    return 0;
}

static void one_of(mx_options *o, const char *name, const char *value, const char *choices) {
    char copy[64], *at = copy;
    snprintf(copy, sizeof copy, "%s", choices);
    for (char *word; (word = strsep(&at, " "));)
        if (!strcmp(word, value)) return;
    fprintf(stderr, "mxrun: %s: expected one of %s, got '%s'\n", name, choices, value);
    leave(o, 2);
}

static int is_refused(int c) { return (c >= 0 && c <= ' ') || c == 127; }

static int hex(char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

/* NULL: it cannot be one. */
static char *decoded(const char *p, size_t n) {
    char *s = mx_secret(p, n), *to = s;
    for (const char *from = s; *from; from++) {
        int c = *from, high = c == '%' ? hex(from[1]) : 0, low = c == '%' && high >= 0 ? hex(from[2]) : 0;
        if (is_refused(c) || high < 0 || low < 0 || (c == '%' && !(high | low))) {
            mx_secret_free(s);
            return NULL;
        }
        *to++ = (char)(c == '%' ? high << 4 | low : c);
        if (c == '%') from += 2;
    }
    *to = '\0';
    return s;
}

/* A URL whose password is wrong stays as it is: mx/url.lua says what is wrong with it. */
static char *take_password(const char *url, size_t n, mx_span *password) {
    char *scheme = memmem(url, n, "://", 3), *whole = mx_secret(url, n);
    *password = (mx_span){0};
    char *user = scheme ? whole + (scheme - url) + 3 : whole, *host = memrchr(user, '@', strcspn(user, "/?"));
    char *colon = host ? memchr(user, ':', (size_t)(host - user)) : NULL;
    char *said = colon && colon + 1 < host ? decoded(colon + 1, (size_t)(host - colon - 1)) : NULL, *rest = NULL;
    if (said) {
        *password = mx_span_of(said);
        colon[1] = '\0';
    }
    if (asprintf(&rest, said ? "%s***%s" : "%s", whole, host) < 0) abort();
    mx_secret_free(whole);
    return rest;
}

static void add_url(mx_options *o, const char *url, size_t n) {
    int i = o->url_count++;
    o->urls = mx_realloc(o->urls, (size_t)o->url_count * sizeof *o->urls);
    o->passwords = mx_realloc(o->passwords, (size_t)o->url_count * sizeof *o->passwords);
    o->urls[i] = take_password(url, n, &o->passwords[i]);
}

static void add_urls(mx_options *o, const char *name, const char *list) {
    const char *said = list;
    int before = o->url_count;
    while (*list) {
        size_t n = strcspn(list, ",");
        if (n) add_url(o, list, n);
        list += n + (list[n] == ',');
    }
    if (o->url_count == before) misuse(o, "%s: '%s' names no broker; give amqp://… or mem://", name, said);
}

/* Everybody can read the command line of a process. */
static void conceal(char *list) {
    for (char *url; (url = strsep(&list, ","));) {
        char *host = strrchr(url, '@'), *user = strstr(url, "://"), *password = user ? strchr(user + 3, ':') : NULL;
        if (host && password && password < host) memset(password + 1, '*', (size_t)(host - password - 1));
        if (list) list[-1] = ',';
    }
}

static void add_set(mx_options *o, const char *pair) {
    const char *equals = strchr(pair, '=');
    if (!equals || equals == pair) {
        misuse(o, "--set: expected name=value, got '%s'%s", pair, "");
        return;
    }
    o->set = mx_realloc(o->set, (size_t)(o->set_count + 1) * sizeof *o->set);
    o->set[o->set_count++] = (mx_pair){mx_strndup(pair, (size_t)(equals - pair)), equals + 1};
}

static void take(mx_options *o, int i, const char *name, const char *value) {
    switch (table[i].id) {
    case URL: add_urls(o, name, value); break;
    case EVAL: o->eval = value; break;
    case WORKERS: o->workers = workers(o, name, value); break;
    case HTTP: o->http = value; break;
    case HTTP_TOKEN_FILE: o->http_token_file = value; break;
    case WATCH: o->watch = 1; break;
    case INTERACTIVE: o->interactive = 1; break;
    case SOCKET: o->socket = value; break;
    case SOCKET_READ_ONLY: o->socket_read_only = 1; break;
    case EVAL_LIMIT: o->eval_limit = seconds(o, name, value); break;
    case CHECK: o->command = "check"; break;
    case PROFILE: o->profile = value; break;
    case PROFILE_DIR: o->profile_dir = value; break;
    case SET: add_set(o, value); break;
    case LOG: one_of(o, name, o->log = value, "text json"); break;
    case LEVEL: one_of(o, name, o->log_level = value, "debug info warn error"); break;
    case TURN_LIMIT: o->turn_limit = seconds(o, name, value); break;
    case DRAIN: o->drain = seconds(o, name, value); break;
    case MEMORY_LIMIT: o->memory_limit = bytes(o, name, value); break;
    case SCRIPTS: o->scripts = value; break;
    case HELP:
        fputs(help, stdout);
        leave(o, 0);
        break;
    case VERSION:
        puts("mxrun " MX_VERSION);
        leave(o, 0);
        break;
    }
}

static int find(const char *word, size_t n) {
    for (int i = 0; i < KNOWN; i++) {
        if (strlen(table[i].name) == n && !strncmp(word, table[i].name, n)) return i;
        if (table[i].letter && n == 2 && !strncmp(word, table[i].letter, n)) return i;
    }
    return -1;
}

/* Takes the option at argv[at]; returns how many words it was. */
static int option(mx_options *o, int argc, char **argv, int at) {
    const char *word = argv[at];
    size_t n = strcspn(word, "=");
    int i = find(word, n);
    if (i < 0) {
        unknown(o, word);
        return 1;
    }
    if (!table[i].takes) {
        take(o, i, word, NULL);
        return 1;
    }
    if (word[n] == '=') {
        take(o, i, table[i].name, word + n + 1);
        if (table[i].id == URL) conceal(argv[at] + n + 1);
        return 1;
    }
    if (at + 1 == argc) {
        misuse(o, "option %s wants a value; mxrun --help%s", word, "");
        return 1;
    }
    take(o, i, table[i].name, argv[at + 1]);
    if (table[i].id == URL) conceal(argv[at + 1]);
    return 2;
}

static const char *command(const char *word) {
    static const char *const words[] = {"test", "pub", "sub",    "dlq",  "topology", "profile", "bench",
                                        "init", "doc", "attach", "eval", "top",      "health"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(words[i], word)) return words[i];
    return NULL;
}

static void forget_urls(mx_options *o) {
    for (int i = 0; i < o->url_count; i++) {
        free((void *)o->urls[i]);
        mx_secret_free((char *)o->passwords[i].p);
    }
    o->url_count = 0;
}

/* Options beat the environment. */
static int url_or_other(mx_options *o, int argc, char **argv, int at, int *environment_urls) {
    if (*environment_urls && find(argv[at], strcspn(argv[at], "=")) == URL) {
        forget_urls(o);
        *environment_urls = 0;
    }
    return option(o, argc, argv, at);
}

static int is_shared(const char *word) {
    int i = word[0] == '-' ? find(word, strcspn(word, "=")) : -1;
    return i >= 0 && (table[i].id == URL || table[i].id > CHECK) && table[i].id < HELP;
}

/* After a command's word the options of every command may stand anywhere; the command gets what is left. */
static int take_shared(mx_options *o, int argc, char **argv, int at, int environment_urls) {
    int left = at;
    while (at < argc && !o->exit_now) {
        if (!strcmp(argv[at], "--")) {
            while (at < argc) argv[left++] = argv[at++];
        } else if (is_shared(argv[at])) {
            at += url_or_other(o, argc, argv, at, &environment_urls);
        } else argv[left++] = argv[at++];
    }
    return left;
}

static void from_environment(mx_options *o) {
    for (int i = 0; i < KNOWN; i++) {
        const char *name = table[i].environment;
        const char *value = !name ? NULL : table[i].id == URL ? mx_secret_environment(name) : getenv(name);
        if (value && *value) take(o, i, table[i].environment, value);
    }
}

/* Where the options before the script or command end; "--" ends them too, and what follows is no command then. */
static int take_options(mx_options *o, int argc, char **argv, int *environment_urls, int *is_command) {
    int at = 1;
    *is_command = 1;
    while (!o->exit_now && at < argc && argv[at][0] == '-' && argv[at][1]) {
        if (!strcmp(argv[at], "--")) {
            *is_command = 0;
            return at + 1;
        }
        at += url_or_other(o, argc, argv, at, environment_urls);
    }
    return at;
}

static char **copy(int argc, char **argv) {
    char **to = mx_zalloc((size_t)(argc + 1) * sizeof *to);
    for (int i = 0; i < argc; i++) to[i] = mx_secret(argv[i], strlen(argv[i]));
    return to;
}

static void forget_given(mx_options *o) {
    for (char **word = o->given; word && *word; word++) mx_secret_free(*word);
    free(o->given);
    o->given = NULL;
}

void mx_options_parse(mx_options *o, int argc, char **argv) {
    *o = (mx_options){.turn_limit = -1, .drain = 25, .eval_limit = 0.05, .given = copy(argc, argv)};
    from_environment(o);
    int environment_urls = o->url_count, environment_workers = o->workers, is_command,
        at = take_options(o, argc, argv, &environment_urls, &is_command);
    if (is_command && !o->command && !o->eval && !o->exit_now && at < argc && (o->command = command(argv[at]))) {
        at++;
        if (strcmp(o->command, "test")) argc = take_shared(o, argc, argv, at, environment_urls);
    } else if (!o->command && !o->eval && !o->exit_now) {
        if (at == argc && o->interactive) o->eval = "";
        else if (at == argc) misuse(o, "no script given; try: mxrun -u mem:// FILE, or mxrun --help%s%s", "", "");
        else o->file = argv[at++];
    }
    if (o->command) {
        if (o->workers != environment_workers)
            misuse(o, "option -w is for scripts, not for %s%s", o->command,
                   strcmp(o->command, "bench") ? "" : "; it has its own, behind its name");
        o->workers = 0;
    }
    if (o->interactive && (o->workers || o->command))
        misuse(o, "option -i is for one process that runs a script; with -w use --socket, and mxrun attach%s%s", "", "");
    if (o->watch && !o->file && !o->exit_now) misuse(o, "option --watch is for a FILE, and there is none%s%s", "", "");
    /* a spec may block, on a program that it runs for instance */
    if (o->turn_limit < 0) o->turn_limit = o->command && !strcmp(o->command, "test") ? 60 : 5;
    o->args = argv + at;
    o->arg_count = argc > at ? argc - at : 0;
    if (!o->workers) forget_given(o);
}

void mx_options_fini(mx_options *o) {
    forget_urls(o);
    free(o->urls);
    free(o->passwords);
    for (int i = 0; i < o->set_count; i++) free((void *)o->set[i].key);
    free(o->set);
    forget_given(o);
}
