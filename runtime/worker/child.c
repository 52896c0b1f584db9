/* child.c - more processes of this program, for a benchmark that one cannot make. */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "measure/tally.h"

extern char **environ;

static int is_ours(const char *pair) { return !strncmp(pair, "MXRUN_BENCH=", 12) || !strncmp(pair, "MXRUN_URLS=", 11); }

/* The environment with two settings of ours in front; the URLs may hold passwords, which no command line should. */
static char **with(const char *bench, const char *urls) {
    size_t n = 0, k = 2;
    while (environ[n]) n++;
    char **list = mx_zalloc((n + 3) * sizeof *list);
    list[0] = (char *)(uintptr_t)bench;
    list[1] = (char *)(uintptr_t)urls;
    for (size_t i = 0; i < n; i++)
        if (!is_ours(environ[i])) list[k++] = environ[i];
    return list;
}

MX_EXPORT int mx_tallies_spawn(mx_tallies *t, uint32_t number, const char *const *argv, const char *urls) {
    char bench[64], *url_pair = mx_zalloc(strlen(urls) + 16);
    pid_t pid;
    posix_spawn_file_actions_t actions;
    snprintf(bench, sizeof bench, "MXRUN_BENCH=%u %d", number, (int)getpid());
    sprintf(url_pair, "MXRUN_URLS=%s", urls);
    char **environment = with(bench, url_pair);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, mx_tallies_fd(t), MX_TALLY_FD);
    int code = posix_spawn(&pid, "/proc/self/exe", &actions, NULL, (char *const *)(uintptr_t)argv, environment);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    explicit_bzero(url_pair, strlen(url_pair));
    free(url_pair);
    return code ? -code : pid;
}

MX_EXPORT mx_tallies *mx_tallies_attach(uint32_t *number) {
    const char *text = getenv("MXRUN_BENCH");
    int parent = 0;
    if (!text || sscanf(text, "%u %d", number, &parent) != 2) return NULL;
    mx_tallies *t = mx_tallies_map(MX_TALLY_FD);
    if (!t || *number < 1 || *number > t->workers) return NULL;
    close(MX_TALLY_FD);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) raise(SIGKILL); /* it died before we asked for that */
    return t;
}

MX_EXPORT int mx_child_ended(int pid) {
    int status;
    pid_t got = waitpid(pid, &status, WNOHANG);
    if (!got || (got < 0 && errno == EINTR)) return -1;
    if (got < 0) return 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
