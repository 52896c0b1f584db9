/* notify.c - one datagram to $NOTIFY_SOCKET. */
#include "worker/notify.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

void mx_notify(const char *format, ...) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;
    if ((n ? *path != '/' && *path != '@' : 1) || n >= sizeof to.sun_path) return;
    memcpy(to.sun_path, path, n);
    if (*path == '@') to.sun_path[0] = 0; /* an abstract one */
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return;
    sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    close(fd);
}

void mx_notify_reload(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    mx_notify("RELOADING=1\nMONOTONIC_USEC=%lld", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    mx_notify("READY=1");
}

uint64_t mx_notify_period_ms(void) {
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (!usec || (pid && *pid && atol(pid) != (long)getpid())) return 0;
    uint64_t ms = strtoull(usec, NULL, 10) / 2000;
    return ms ? ms : 1;
}
