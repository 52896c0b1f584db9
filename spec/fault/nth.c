/* nth.c - preloaded into mxrun: makes the N-th call of a kind fail, and sets the wall clock wrong.
 *
 *   NTH=KIND:HOW:N   KIND is read, write, connect, socket (of TCP), resolve, or alloc (by the program itself, not its libraries);
 *                    HOW an errno, or 0: one byte is moved, no more. What failed to read or write is a dead connection from then
 * on. NTH_COUNT=FILE   gets how many such calls there were NTH_CLOCK=FILE   has the seconds by which the wall clock is off */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(type, name, ...)                                                                                                    \
    static type (*real)(__VA_ARGS__);                                                                                            \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

enum { FINE, FAILS, ONE_BYTE };

static char kind[16];
static int how, nth;
static atomic_int calls;
static ino_t dead; /* the connection that failed */
static uintptr_t low, high;

static int find_program(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size, (void)arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X)) continue;
        low = info->dlpi_addr + p->p_vaddr;
        high = low + p->p_memsz;
    }
    return 1; /* the first one is the program */
}

__attribute__((constructor)) static void begin(void) {
    const char *order = getenv("NTH");
    if (order) sscanf(order, "%15[a-z]:%d:%d", kind, &how, &nth);
    dl_iterate_phdr(find_program, NULL);
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("NTH_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;
    if (!f) return;
    fprintf(f, "%d\n", calls);
    fclose(f);
}

static int happens(const char *what) {
    if (strcmp(kind, what) || ++calls != nth) return FINE;
    errno = how;
    return how ? FAILS : ONE_BYTE;
}

static ino_t tcp_of(int fd) {
    struct sockaddr_storage at;
    struct stat about;
    socklen_t size = sizeof at;
    int before = errno,
        is_tcp = !getsockname(fd, (struct sockaddr *)&at, &size) && (at.ss_family == AF_INET || at.ss_family == AF_INET6);
    errno = before;
    return is_tcp && !fstat(fd, &about) ? about.st_ino : 0;
}

/* What becomes of moving bytes over fd. */
static int moves(const char *what, int fd) {
    ino_t socket = kind[0] == 'r' || kind[0] == 'w' ? tcp_of(fd) : 0;
    if (!socket) return FINE;
    if (socket == dead) {
        errno = how;
        return FAILS;
    }
    int fate = happens(what);
    if (fate != FAILS) return fate;
    dead = socket;
    shutdown(fd, SHUT_RDWR); /* the loop is to notice */
    errno = how;
    return FAILS;
}

ssize_t read(int fd, void *p, size_t n) {
    REAL(ssize_t, "read", int, void *, size_t);
    int fate = moves("read", fd);
    return fate == FAILS ? -1 : real(fd, p, fate == ONE_BYTE && n ? 1 : n);
}

ssize_t write(int fd, const void *p, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int fate = moves("write", fd);
    return fate == FAILS ? -1 : real(fd, p, fate == ONE_BYTE && n ? 1 : n);
}

ssize_t writev(int fd, const struct iovec *v, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    int fate = moves("write", fd);
    if (fate == ONE_BYTE) return write(fd, v->iov_base, v->iov_len ? 1 : 0);
    return fate == FAILS ? -1 : real(fd, v, n);
}

int connect(int fd, const struct sockaddr *to, socklen_t size) {
    REAL(int, "connect", int, const struct sockaddr *, socklen_t);
    return to->sa_family != AF_UNIX && happens("connect") ? -1 : real(fd, to, size);
}

int socket(int family, int type, int protocol) {
    REAL(int, "socket", int, int, int);
    return family != AF_UNIX && happens("socket") ? -1 : real(family, type, protocol);
}

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out) {
    REAL(int, "getaddrinfo", const char *, const char *, const struct addrinfo *, struct addrinfo **);
    return happens("resolve") ? (how == ENOMEM ? EAI_MEMORY : EAI_AGAIN) : real(host, port, hints, out);
}

/* ---- memory: as glibc's own names, since looking others up may need some ---- */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t n);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);

static int is_short(void *caller) { return (uintptr_t)caller - low < high - low && happens("alloc"); }
#define CALLER __builtin_return_address(0)

void *malloc(size_t n) { return is_short(CALLER) ? NULL : __libc_malloc(n); }
void *calloc(size_t count, size_t n) { return is_short(CALLER) ? NULL : __libc_calloc(count, n); }
void *realloc(void *p, size_t n) { return is_short(CALLER) ? NULL : __libc_realloc(p, n); }
void *aligned_alloc(size_t alignment, size_t n) { return is_short(CALLER) ? NULL : __libc_memalign(alignment, n); }

/* ---- the wall clock ---- */

static time_t off(void) {
    char text[32] = "";
    const char *path = getenv("NTH_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 ? (time_t)atoll(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int answer = real(clock, t);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) t->tv_sec += off();
    return answer;
}

time_t time(time_t *to) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return to ? *to = t.tv_sec : t.tv_sec;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *t = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}
