/* secret.c - a mapping for each secret: locked, MADV_DONTDUMP. */
#include "base/secret.h"
#include <stdlib.h>
#include <sys/mman.h>

typedef struct pages {
    size_t size;
    char text[];
} pages;

char *mx_secret(const void *p, size_t n) {
    size_t size = sizeof(pages) + n + 1;
    pages *s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mx_sure(s == MAP_FAILED ? NULL : s, size);
    madvise(s, size, MADV_DONTDUMP);
    mlock(s, size); /* there may be a limit on that */
    s->size = size;
    if (n) memcpy(s->text, p, n);
    return s->text;
}

void mx_secret_free(char *s) {
    if (!s) return;
    pages *p = (pages *)(s - offsetof(pages, text));
    size_t size = p->size;
    explicit_bzero(p, size);
    munmap(p, size);
}

/* Copies go by vector registers; who saves those, as the dynamic linker does when it looks up a name, leaves them there. */
void mx_secret_wipe_stack(void) {
    char below[16 * 1024];
    explicit_bzero(below, sizeof below);
}

/* What exec put above the stack is ours; what setenv made is libc's, which finds it by its text. */
static int is_from_exec(const char *s) { return (uintptr_t)s > (uintptr_t)__builtin_frame_address(0); }

const char *mx_secret_environment(const char *name) {
    char *said = getenv(name);
    if (!said || !is_from_exec(said)) return said;
    size_t before = strlen(name) + 1;
    char *kept = mx_secret(said - before, before + strlen(said));
    if (putenv(kept)) {
        mx_secret_free(kept);
        return said;
    }
    explicit_bzero(said, strlen(said));
    return kept + before;
}

MX_EXPORT mx_span mx_environment(const char *name) { return mx_span_of(mx_secret_environment(name)); }
