/* report.c - one writer, any reader, nobody waits. */
#include "worker/report.h"
#include <stdio.h>

void mx_report_write(mx_report *r, const char *why, int health, const char *text, size_t n) {
    uint32_t version = r->version + 1;
    mx_report_page *p = &r->page[version & 1];
    if (n > MX_REPORT_BYTES) n = 0;
    p->ready = !why;
    p->health = (uint32_t)health;
    p->size = (uint32_t)n;
    snprintf(p->why, sizeof p->why, "%s", why ? why : "");
    memcpy(p->text, text, n);
    __atomic_store_n(&r->version, version, __ATOMIC_RELEASE);
}

int mx_report_read(const mx_report *r, mx_report_page *to) {
    for (int i = 0; i < 3; i++) {
        uint32_t version = __atomic_load_n(&r->version, __ATOMIC_ACQUIRE);
        if (!version) return 0;
        *to = r->page[version & 1];
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&r->version, __ATOMIC_RELAXED) != version) continue;
        to->why[sizeof to->why - 1] = '\0';
        if (to->size > MX_REPORT_BYTES) to->size = 0;
        if (to->health > MX_UNHEALTHY) to->health = MX_UNHEALTHY;
        return 1;
    }
    return 0; /* it says something new all the time: that is no worker of ours */
}
