/* resolver.c - a resolver for LD_PRELOAD that says what a name ending in .test says itself: "dead-good.test" has a silent address
 * and then one that answers, "dead6" is a silent one of IPv6; "hang.test" gets no answer. */
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int resolve(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static const char *address_of(const char *label) {
    if (!strncmp(label, "good", 4)) return "127.0.0.1";
    return strncmp(label, "dead6", 5) ? "127.0.0.2" : "::1";
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **out) {
    resolve *real = (resolve *)dlsym(RTLD_NEXT, "getaddrinfo");
    struct addrinfo *all = NULL, **end = &all;
    if (!name || !strstr(name, ".test")) return real(name, service, hints, out);
    if (!strcmp(name, "hang.test")) sleep(60);
    for (const char *label = name; label; label = strchr(label, '-') ? strchr(label, '-') + 1 : NULL) {
        int code = real(address_of(label), service, hints, end);
        if (code) return code;
        while (*end) end = &(*end)->ai_next;
    }
    *out = all;
    return 0;
}
