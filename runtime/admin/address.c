/* address.c - an address as text, and a socket that listens there. */
#include "admin/address.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/mx.h"

/* 0: it is none. */
static int split(const char *address, char host[MX_ADDRESS], char port[8]) {
    const char *colon = strrchr(address, ':'), *digits = colon ? colon + 1 : address;
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (n && address[0] == '[' && address[n - 1] == ']') address++, n -= 2;
    else if (memchr(address, ':', n)) return 0; /* an IPv6 address without brackets */
    if (n >= MX_ADDRESS || !*digits || strlen(digits) > 5 || strspn(digits, "0123456789") != strlen(digits) ||
        atoi(digits) > 65535)
        return 0;
    snprintf(host, MX_ADDRESS, "%.*s", (int)n, address);
    if (!*host || !strcmp(host, "localhost")) strcpy(host, "127.0.0.1");
    strcpy(port, digits);
    return 1;
}

static int is_loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_INET) return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

static int bound(const struct addrinfo *a, int backlog) {
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, backlog)) return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

static void name_of(int fd, const char *host, char text[MX_ADDRESS]) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char port[8] = "0";
    if (!getsockname(fd, (struct sockaddr *)&a, &n))
        getnameinfo((struct sockaddr *)&a, n, NULL, 0, port, sizeof port, NI_NUMERICSERV);
    snprintf(text, MX_ADDRESS, strchr(host, ':') ? "[%.46s]:%s" : "%.46s:%s", host, port);
}

int mx_address_listen(const char *address, int public, int backlog, char text[MX_ADDRESS], char *why, size_t why_size) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *a;
    char host[MX_ADDRESS], port[8];
    if (!split(address, host, port) || getaddrinfo(host, port, &hints, &a)) {
        snprintf(why, why_size, "expected host:port such as 127.0.0.1:8080, with a numeric host");
        return MX_ECONFIG;
    }
    int fd = MX_ECONFIG;
    if (!public && !is_loopback(a->ai_addr)) {
        snprintf(why, why_size, "everybody could ask there: give a token, MXRUN_HTTP_TOKEN or --http-token-file");
    } else if ((fd = bound(a, backlog)) < 0) {
        snprintf(why, why_size, "%s", strerror(errno));
        fd = MX_ECONNECTION;
    } else name_of(fd, host, text);
    freeaddrinfo(a);
    return fd;
}
